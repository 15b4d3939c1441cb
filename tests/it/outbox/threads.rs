//! Frames pushed from several threads at once: no frame is lost, doubled or out of order, and no
//! wake-up is missed.

use std::thread;
use std::time::Duration;

use ropewalk::outbox::PushError;
use ropewalk::{Lines, Outbox, Result, Session, SlowConsumer, per_connection, reply_fn, session};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines as AsyncLines, ReadHalf, split};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::wired::{self, wired};

/// Only turns a hang into a failure.
const LONG: Duration = Duration::from_secs(300);
const THREADS: usize = 3;
const FRAMES: usize = 20_001;

type Told = UnboundedSender<Outbox<String>>;
type Heard = AsyncLines<BufReader<ReadHalf<DuplexStream>>>;

async fn hear(lines: &mut Heard) -> Option<String> {
    timeout(LONG, lines.next_line()).await.expect("a frame comes").unwrap()
}

/// Pushes numbered frames from each thread, again and again where there is no room.
fn push_from_threads(outbox: &Outbox<String>) -> Vec<thread::JoinHandle<()>> {
    let push = |thread: usize, outbox: Outbox<String>| {
        for n in 0..FRAMES / THREADS {
            let mut frame = format!("{thread} {n}");
            while let Err(PushError::Full(again)) = outbox.push(frame) {
                thread::yield_now();
                frame = again;
            }
        }
    };
    (0..THREADS)
        .map(|n| (n, outbox.clone()))
        .map(|(n, outbox)| thread::spawn(move || push(n, outbox)))
        .collect()
}

/// Hears the frames of all threads, each in its order.
async fn hear_all(lines: &mut Heard) {
    let mut next = [0; THREADS];
    for _ in 0..FRAMES / THREADS * THREADS {
        let line = hear(lines).await.expect("there is more");
        let (thread, n) = line.split_once(' ').unwrap();
        let next = &mut next[thread.parse::<usize>().unwrap()];
        assert_eq!(n.parse::<usize>().unwrap(), *next, "of thread {thread}");
        *next += 1;
    }
}

async fn all_come(leaf: impl Fn(Told) -> wired::Wired) {
    let (told, mut outboxes) = unbounded_channel();
    let w = leaf(told);
    let outbox = outboxes.recv().await.unwrap();
    let pushing = push_from_threads(&outbox);
    let (read, write) = split(w.peer);
    hear_all(&mut BufReader::new(read).lines()).await;
    pushing.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((outbox.len(), outbox.dropped(), outbox.refused()), (0, 0, 0));
    drop(write);
    w.closing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_that_is_dropped_at_each_poll_loses_nothing() {
    all_come(|told| {
        wired(session(Lines::lf(), move |mut s: Session<Lines>| {
            told.send(s.outbox(64, SlowConsumer::Refuse)).unwrap();
            async move {
                loop {
                    tokio::select! {
                        biased;
                        line = s.next() => if line?.is_none() { return Ok(()) },
                        () = yield_now() => {}
                    }
                }
            }
        }))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_session_and_a_service_of_frames_lose_nothing() {
    all_come(|told| wired(session(Lines::lf(), move |s| listens(s, told.clone())))).await;
    all_come(|told| {
        wired(per_connection(Lines::lf(), move |connection| {
            told.send(connection.outbox(64, SlowConsumer::Refuse)).unwrap();
            reply_fn(|line: bytes::Bytes| line)
        }))
    })
    .await;
}

async fn listens(mut s: Session<Lines>, told: Told) -> Result {
    told.send(s.outbox(64, SlowConsumer::Refuse)).unwrap();
    while s.next().await?.is_some() {}
    Ok(())
}

async fn drives(mut s: Session<Lines>, told: Told) -> Result {
    told.send(s.outbox(64, SlowConsumer::Refuse)).unwrap();
    s.drive(reply_fn(|line: bytes::Bytes| line)).await
}

/// Pushes one frame, waits until the peer has it, and pushes the next: a wake-up that is lost is
/// never made good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_push_into_an_empty_outbox_wakes_the_connection() {
    let (told, mut outboxes): (Told, UnboundedReceiver<_>) = unbounded_channel();
    let w = wired(session(Lines::lf(), move |s| listens(s, told.clone())));
    let outbox = outboxes.recv().await.unwrap();
    let (again, pushing) = std::sync::mpsc::channel();
    let pusher = thread::spawn(move || {
        for n in pushing {
            let n: usize = n;
            outbox.push(n.to_string()).unwrap();
        }
    });
    let (read, _write) = split(w.peer);
    let mut lines = BufReader::new(read).lines();
    for n in 0..FRAMES {
        again.send(n).unwrap();
        assert_eq!(hear(&mut lines).await.unwrap(), n.to_string());
    }
    drop(again);
    pusher.join().unwrap();
    w.closing.abort();
}

/// What `push` has taken is written, and what comes too late is refused: there is no moment
/// between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_loses_no_frame_that_was_taken() {
    loses_nothing_at_a_drain(|told| wired(session(Lines::lf(), move |s| listens(s, told.clone()))))
        .await;
    loses_nothing_at_a_drain(|told| wired(session(Lines::lf(), move |s| drives(s, told.clone()))))
        .await;
    loses_nothing_at_a_drain(|told| {
        wired(per_connection(Lines::lf(), move |connection| {
            told.send(connection.outbox(64, SlowConsumer::Refuse)).unwrap();
            reply_fn(|line: bytes::Bytes| line)
        }))
    })
    .await;
}

async fn loses_nothing_at_a_drain(leaf: impl Fn(Told) -> wired::Wired) {
    for _ in 0..200 {
        let (told, mut outboxes): (Told, UnboundedReceiver<_>) = unbounded_channel();
        let w = leaf(told);
        let outbox = outboxes.recv().await.unwrap();
        let pushing: Vec<_> = (0..THREADS)
            .map(|_| outbox.clone())
            .map(|outbox| {
                thread::spawn(move || {
                    let mut taken = 0;
                    loop {
                        match outbox.push(String::from("x")) {
                            Ok(()) => taken += 1,
                            Err(PushError::Full(_)) => thread::yield_now(),
                            Err(PushError::Closed(_)) => return taken,
                        }
                    }
                })
            })
            .collect();
        w.closing.drain();
        let (read, write) = split(w.peer);
        let mut lines = BufReader::new(read).lines();
        let mut heard = 0_u64;
        while hear(&mut lines).await.is_some() {
            heard += 1;
        }
        let taken: u64 = pushing.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(heard, taken);
        drop(write);
    }
}

/// Three tasks that wait for room, and one that reads: all get on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_wait_for_room_all_get_it() {
    let (told, mut outboxes) = unbounded_channel();
    let w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        told.send(s.outbox(2, SlowConsumer::Disconnect)).unwrap();
        async move { s.next().await.map(drop) }
    }));
    let outbox: Outbox<String> = outboxes.recv().await.unwrap();
    for thread in 0..THREADS {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            for n in 0..FRAMES / THREADS {
                outbox.send(format!("{thread} {n}")).await.unwrap();
            }
        });
    }
    let (read, _write) = split(w.peer);
    hear_all(&mut BufReader::new(read).lines()).await;
    w.closing.abort();
}
