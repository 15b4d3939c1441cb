//! What a push to a connection costs the thread that pushes, its wake-up included: a frame for each
//! of 10 000 members of a `Room`, against `try_send` into 10 000 bare channels of tokio, whose
//! tasks wait for it.
//!
//! `cargo bench --bench pushes` measures and ends with a table. Between two measured pushes all
//! have written the frame and wait again, which is not measured; so each push finds an empty queue
//! and wakes a task.

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion};
use ropewalk::connection::Stream;
use ropewalk::{
    Addr, Bytes, Connection, Lines, Peer, Result, Room, Session, SlowConsumer, session,
};
use support::{Row, Table};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tower::Service;

const MEMBERS: usize = 10_000;
const FRAME: Bytes =
    Bytes::from_static(b"sixty-four bytes are what a short line of a protocol is made of.");
/// More than wait at any time.
const CAPACITY: usize = 8;

fn main() {
    // `cargo test --benches` runs each once and prints no table.
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let mut table = Table::default();
    let row = |who| Row { kind: "a push", size: 0, who, frames: MEMBERS, bytes: 0 };
    table.measure(&mut criterion, row("tokio mpsc"), channels);
    table.measure(&mut criterion, row("Room"), members);
    criterion.final_summary();
    table.print_ratios("a push", "tokio mpsc");
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The time of the pushes alone; after each round all that was pushed is heard.
fn measure(
    bencher: &mut Bencher<'_>,
    runtime: &Runtime,
    heard: &AtomicUsize,
    mut push: impl FnMut(),
) {
    // Until all wait for the first time.
    runtime.block_on(turns());
    bencher.iter_custom(|rounds| {
        let mut time = Duration::ZERO;
        for _ in 0..rounds {
            let all = heard.load(Ordering::Relaxed) + MEMBERS;
            // In the runtime, where a wake-up does not have to wake its thread.
            runtime.block_on(async {
                let began = Instant::now();
                push();
                time += began.elapsed();
                while heard.load(Ordering::Relaxed) < all {
                    yield_now().await;
                }
                turns().await;
            });
        }
        time
    });
}

/// Turns enough for each task to have run: in one, a runtime of one thread polls 61 tasks.
async fn turns() {
    for _ in 0..MEMBERS / 32 {
        yield_now().await;
    }
}

fn channels(bencher: &mut Bencher<'_>) {
    let (runtime, heard) = (runtime(), Arc::new(AtomicUsize::new(0)));
    let senders = (0..MEMBERS).map(|_| {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CAPACITY);
        let heard = Arc::clone(&heard);
        runtime.spawn(async move {
            while receiver.recv().await.is_some() {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        });
        sender
    });
    let senders: Vec<_> = senders.collect();
    measure(bencher, &runtime, &heard, || {
        for sender in &senders {
            sender.try_send(FRAME).expect("there is room");
        }
    });
}

fn members(bencher: &mut Bencher<'_>) {
    let (runtime, heard, room) = (runtime(), Arc::new(AtomicUsize::new(0)), Room::new());
    let entering = room.clone();
    let mut leaf = session(Lines::lf(), move |s| listens(s, entering.clone()));
    for _ in 0..MEMBERS {
        let stream = Stream::from_io(Sink(Arc::clone(&heard)));
        runtime.spawn(leaf.call(Connection::new(stream, Peer::new(Addr::Memory))));
    }
    measure(bencher, &runtime, &heard, || assert_eq!(room.push(FRAME), MEMBERS));
}

async fn listens(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
    let _me = room.join(s.outbox(CAPACITY, SlowConsumer::Disconnect));
    while s.next().await?.is_some() {}
    Ok(())
}

/// Takes all that is written, and counts the writes; nothing comes.
struct Sink(Arc<AtomicUsize>);

impl AsyncRead for Sink {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
