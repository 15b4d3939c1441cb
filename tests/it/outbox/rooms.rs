//! Rooms: which members receive a frame, coming and going, and members that are slow.

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures::FutureExt;
use ropewalk::{
    CloseReason, Lines, Outbox, Reply, Result, Room, Session, SlowConsumer, per_connection,
    reply_fn, session,
};
use tokio::sync::mpsc::unbounded_channel;

use crate::wired::{Wired, settle, wired, wired_with};

/// Says to all others what its peer says.
async fn chats(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
    let me = room.join(s.outbox(8, SlowConsumer::Disconnect));
    s.feed("welcome")?;
    while let Some(line) = s.next().await? {
        room.send_except(me.id(), line).await;
    }
    Ok(())
}

fn chat(room: &Room<Bytes>) -> impl Fn() -> Wired + use<> {
    let room = room.clone();
    let leaf = session(Lines::lf(), move |s| chats(s, room.clone()));
    move || wired_with(leaf.clone(), 1024)
}

#[tokio::test(start_paused = true)]
async fn a_line_reaches_all_other_guests_from_their_arrival_until_they_leave() {
    let room = Room::new();
    let guest = chat(&room);
    let (mut ann, mut bob, mut eve) = (guest(), guest(), guest());
    for w in [&mut ann, &mut bob, &mut eve] {
        w.expect("welcome\n").await;
    }
    assert_eq!((room.len(), room.members().len(), room.is_empty()), (3, 3, false));
    ann.say("one\ntwo\n").await;
    bob.expect("one\ntwo\n").await;
    eve.expect("one\ntwo\n").await;
    let mut late = guest();
    late.expect("welcome\n").await;
    ann.say("late\n").await;
    for w in [&mut bob, &mut eve, &mut late] {
        w.expect("late\n").await;
    }
    late.end().await.unwrap();
    eve.end().await.unwrap();
    assert_eq!(room.len(), 2);
    bob.say("three\n").await;
    ann.expect("three\n").await;
    assert_eq!(room.send("to all".into()).await, 2);
    ann.expect("to all\n").await;
    bob.expect("to all\n").await;
    ann.end().await.unwrap();
    bob.end().await.unwrap();
    assert!(room.is_empty());
    assert_eq!(room.send("to nobody".into()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_of_frames_is_a_member_too() {
    let room = Room::new();
    let inside = room.clone();
    let leaf = per_connection(Lines::lf(), move |connection| {
        let me = room.join(connection.outbox(8, SlowConsumer::Disconnect));
        reply_fn(move |line: Bytes| {
            room.push_except(me.id(), line);
            Reply::<Bytes>::none()
        })
    });
    let (mut ann, mut bob) = (wired(leaf.clone()), wired(leaf));
    settle().await;
    ann.say("one\n").await;
    bob.expect("one\n").await;
    assert_eq!(inside.push("two".into()), 2);
    ann.expect("two\n").await;
    bob.expect("two\n").await;
    ann.end().await.unwrap();
    bob.end().await.unwrap();
    assert!(inside.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_read_is_disconnected_and_the_others_go_on() {
    let room = Room::new();
    let guest = chat(&room);
    let (mut ann, mut bob, deaf) = (guest(), guest(), guest());
    ann.expect("welcome\n").await;
    bob.expect("welcome\n").await;
    let line = "x".repeat(1000);
    for _ in 0..1000 {
        ann.say(format!("{line}\n")).await;
        bob.expect(&format!("{line}\n")).await;
    }
    assert_eq!(deaf.closing.reason(), Some(CloseReason::SlowConsumer));
    assert!(deaf.closing.is_aborted());
    ann.say("still here\n").await;
    bob.expect("still here\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_the_codec_refuses_ends_no_member() {
    let room = Room::new();
    let guest = chat(&room);
    let (mut ann, mut bob) = (guest(), guest());
    settle().await;
    assert_eq!(room.send("two\nlines".into()).await, 2);
    assert_eq!(room.send("one line".into()).await, 2);
    ann.expect("welcome\none line\n").await;
    bob.expect("welcome\none line\n").await;
    assert!(room.members().iter().all(|member| member.refused() == 1));
    ann.end().await.unwrap();
    bob.end().await.unwrap();
}

/// So many members, all of one connection.
async fn crowd(n: usize) -> (Room<Bytes>, Wired) {
    let room = Room::new();
    let (told, mut done) = unbounded_channel();
    let joined = room.clone();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let members: Vec<_> =
            (0..n).map(|_| joined.join(s.outbox(8, SlowConsumer::Refuse))).collect();
        told.send(()).unwrap();
        async move {
            let next = s.next().await.map(drop);
            drop(members);
            next
        }
    });
    let w = wired(leaf);
    done.recv().await.unwrap();
    (room, w)
}

#[tokio::test(start_paused = true)]
async fn sends_give_other_tasks_their_turn_when_the_budget_of_the_task_is_used_up() {
    let (room, _w) = crowd(1025).await;
    let mut turns = 0;
    let sender = room.clone();
    let mut sending = Box::pin(async move {
        // 128 units are a turn of tokio's.
        for _ in 0..300 {
            sender.send("x".into()).await;
        }
    });
    std::future::poll_fn(|cx| {
        turns += 1;
        sending.as_mut().poll(cx)
    })
    .await;
    assert_eq!(turns, 3);
    // One of up to 1024 members, and a burst to more, are not interrupted.
    let (room, _w) = crowd(1024).await;
    assert_eq!(room.send("x".into()).now_or_never(), Some(1024));
    let (room, _w) = crowd(5000).await;
    assert_eq!(room.send_except(0, "x".into()).now_or_never(), Some(4999));
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_members_that_have_left_are_used_again_and_leave_no_member_out_by_mistake() {
    let room: Room<Bytes> = Room::new();
    let (told, mut outboxes) = unbounded_channel();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        told.send([(); 3].map(|()| s.outbox(8, SlowConsumer::Refuse))).unwrap();
        async move { s.next().await.map(drop) }
    });
    let _w = wired(leaf);
    let [one, two, three]: [Outbox<Bytes>; 3] = outboxes.recv().await.unwrap();
    let first = room.join(one);
    let second = room.join(two);
    let gone = first.id();
    drop(first);
    assert_eq!(room.push_except(gone, "x".into()), 1);
    let third = room.join(three.clone());
    assert_eq!(third.id(), gone);
    assert_eq!(room.push_except(third.id(), "x".into()), 1);
    assert!(three.is_empty());
    drop(second);
    assert_eq!(room.push_except(99, "x".into()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_while_others_send() {
    let room: Room<Bytes> = Room::new();
    let (told, mut outboxes) = unbounded_channel();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        told.send(s.outbox(8, SlowConsumer::DropOldest)).unwrap();
        async move { s.next().await.map(drop) }
    });
    let w = wired(leaf);
    let outbox: Outbox<Bytes> = outboxes.recv().await.unwrap();
    let stays = Arc::new(room.join(outbox.clone()));
    let threads: Vec<_> = (0..3)
        .map(|_| (room.clone(), outbox.clone(), Arc::clone(&stays)))
        .map(|(room, outbox, stays)| {
            thread::spawn(move || {
                for _ in 0..2000 {
                    let member = room.join(outbox.clone());
                    assert_ne!(member.id(), stays.id());
                    assert!(room.push("x".into()) >= 2);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(room.len(), 1);
    w.closing.abort();
}
