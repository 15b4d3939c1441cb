//! Rooms whose members receive the frames of all senders in one order.

use ropewalk::outbox::Member;
use ropewalk::{Lines, Outbox, Room, Session, SlowConsumer, session};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

use crate::wired::{Wired, wired};

/// So many that a send takes several turns.
const MEMBERS: usize = 600;
const SENDERS: usize = 4;
const FRAMES: usize = 20;

/// Members that do nothing but listen.
async fn members(room: &Room<String>) -> (Vec<Wired>, Vec<Member<String>>) {
    let (tell, mut told) = unbounded_channel::<Outbox<String>>();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let tell = tell.clone();
        async move {
            tell.send(s.outbox(1000, SlowConsumer::Disconnect)).unwrap();
            while s.next().await?.is_some() {}
            Ok(())
        }
    });
    let mut all = (Vec::new(), Vec::new());
    for _ in 0..MEMBERS {
        all.0.push(wired(leaf.clone()));
        all.1.push(room.join(told.recv().await.unwrap()));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn all_members_receive_all_frames_in_one_common_order() {
    let room = Room::new();
    let (peers, _members) = members(&room).await;
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let room = room.clone();
        senders.spawn(async move {
            for n in 0..FRAMES {
                assert_eq!(room.send_in_order(format!("{sender} {n:02}")).await, MEMBERS);
            }
        });
    }
    let mut first: Option<Vec<u8>> = None;
    for mut peer in peers {
        let mut got = vec![0; SENDERS * FRAMES * "0 00\n".len()];
        peer.peer.read_exact(&mut got).await.unwrap();
        let first = first.get_or_insert_with(|| got.clone());
        assert!(*first == got, "two members received the frames in different orders");
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_sender_may_be_left_out_of_the_common_order() {
    let room = Room::new();
    let (mut peers, members) = members(&room).await;
    assert_eq!(room.send_in_order_except(members[0].id(), "a".into()).await, MEMBERS - 1);
    assert_eq!(room.send_in_order("b".into()).await, MEMBERS);
    peers[0].expect("b\n").await;
    peers[1].expect("a\nb\n").await;
}
