//! What a frame and an idle connection ask of the allocator.

#![allow(clippy::expect_used)] // helpers of tests are tests

use std::alloc::System;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use ropewalk::codec::{Decoder, Encoder};
use ropewalk::connection::Stream;
use ropewalk::{
    Addr, Connection, LengthPrefixed, Lines, Peer, Session, framed, reply_fn, service_fn, session,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAMES: usize = 64;

/// A peer that has this many bursts to send, one a read, and accepts all answers.
struct Bursts {
    burst: Vec<u8>,
    left: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

impl AsyncRead for Bursts {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.load(Ordering::Relaxed) == 0 {
            // The test polls again.
            return Poll::Pending;
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        buf.put_slice(&self.burst);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bursts {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.taken.fetch_add(buf.len(), Ordering::Relaxed);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection of a leaf, and how to send bursts on it.
struct Served<F> {
    future: Pin<Box<F>>,
    left: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
    burst: usize,
}

impl<F: Future> Served<F> {
    fn new<S: Service<Connection, Future = F>>(mut leaf: S, burst: &[u8]) -> Self {
        let (left, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let bursts = Bursts { burst: burst.into(), left: left.clone(), taken: taken.clone() };
        let connection = Connection::new(Stream::from_io(bursts), Peer::new(Addr::Memory));
        Self { future: Box::pin(leaf.call(connection)), left, taken, burst: burst.len() }
    }

    /// Sends so many bursts, which are echoed, and returns what the leaf asked of the allocator
    /// meanwhile.
    fn send(&mut self, bursts: usize) -> Stats {
        let region = Region::new(ALLOCATOR);
        let expected = self.taken.load(Ordering::Relaxed) + bursts * self.burst;
        self.left.store(bursts, Ordering::Relaxed);
        while self.taken.load(Ordering::Relaxed) < expected {
            assert!(
                self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
            );
        }
        region.change()
    }
}

fn burst_of_lines(size: usize) -> Vec<u8> {
    [vec![b'x'; size - 1], vec![b'\n']].concat().repeat(FRAMES)
}

async fn echo(mut s: Session<Lines>) -> ropewalk::Result {
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

/// One test for all: the allocator counts for the whole program, and tests run side by side.
#[test]
fn a_frame_costs_its_copy_a_burst_its_buffer_and_an_idle_connection_nothing() {
    an_idle_connection_fits_into_a_small_task();
    a_kept_frame_keeps_alive_only_the_bytes_read_with_it();
    short_frames_cost_their_copies();
    long_frames_cost_nothing_each();
    a_connection_owns_nothing_more_after_a_burst_than_before_it();
}

/// tokio rounds the cell of a task up to 128 bytes. With the server's part, 512 bytes fit into one
/// of 640, and 256 into one of 384.
fn an_idle_connection_fits_into_a_small_task() {
    let service = service_fn(async |line: Bytes| Ok(line));
    let framed = Served::new(framed(Lines::any(), service), b"");
    assert!(size_of_val(&*framed.future) <= 512, "{}", size_of_val(&*framed.future));
    let session = Served::new(session(Lines::any(), echo), b"");
    assert!(size_of_val(&*session.future) <= 256, "{}", size_of_val(&*session.future));
}

fn short_frames_cost_their_copies() {
    let lines = burst_of_lines(64);
    costs_its_copies(Served::new(framed(Lines::lf(), reply_fn(|line: Bytes| line)), &lines));
    costs_its_copies(Served::new(
        framed(Lines::lf(), service_fn(async |line: Bytes| Ok(line))),
        &lines,
    ));
    costs_its_copies(Served::new(session(Lines::lf(), echo), &lines));
    let prefixed = [&64_u32.to_be_bytes()[..], &[7; 64]].concat().repeat(FRAMES);
    costs_its_copies(Served::new(
        framed(LengthPrefixed::u32(), reply_fn(|frame: Bytes| frame)),
        &prefixed,
    ));
}

/// A hundred bursts cost one allocation a frame, its copy, and one a burst, which is moved to a
/// buffer of its size.
fn costs_its_copies<F: Future>(mut served: Served<F>) {
    // The thread's buffers are made by the first connection.
    served.send(10);
    let stats = until(|| served.send(100), |stats| stats.allocations == 100 * (FRAMES + 1));
    assert_eq!((stats.allocations, stats.reallocations), (100 * (FRAMES + 1), 0));
    assert_eq!(
        (stats.deallocations, stats.bytes_deallocated),
        (stats.allocations, stats.bytes_allocated)
    );
}

/// Measures until it is so, five times at most: the allocator counts for all threads, and on a busy
/// machine that of the test runner may begin to wait for this test, which takes a few allocations,
/// while one is measured.
fn until(mut measure: impl FnMut() -> Stats, is_so: impl Fn(&Stats) -> bool) -> Stats {
    let mut stats = measure();
    for _ in 1..5 {
        if is_so(&stats) {
            break;
        }
        stats = measure();
    }
    stats
}

fn long_frames_cost_nothing_each() {
    let mut served =
        Served::new(framed(Lines::lf(), reply_fn(|line: Bytes| line)), &burst_of_lines(1000));
    served.send(10);
    let stats = served.send(100);
    assert!(stats.allocations + stats.reallocations <= 100 * 4, "{stats:?}");
}

fn a_connection_owns_nothing_more_after_a_burst_than_before_it() {
    for size in [64, 1000] {
        let burst = burst_of_lines(size);
        grows_by_nothing(|| Served::new(framed(Lines::lf(), reply_fn(|line: Bytes| line)), &burst));
        grows_by_nothing(|| Served::new(session(Lines::lf(), echo), &burst));
    }
}

fn grows_by_nothing<F: Future>(make: impl Fn() -> Served<F>) {
    // The thread's buffers again.
    make().send(3);
    // New ones for each measurement: what they keep of their first bursts would not be seen later.
    let send_all = || {
        let mut idle: Vec<_> = (0..100).map(|_| make()).collect();
        for served in &mut idle {
            // The first poll sets the leaf up.
            let first = served.future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(first.is_pending());
        }
        let region = Region::new(ALLOCATOR);
        for served in &mut idle {
            served.send(3);
        }
        region.change()
    };
    let stats = until(send_all, |stats| stats.bytes_allocated == stats.bytes_deallocated);
    assert_eq!(stats.bytes_allocated, stats.bytes_deallocated, "{stats:?}");
}

/// Takes frames of 20 bytes, or of 20 000 if they begin with an `L`, as codecs usually do: by
/// sharing the buffer.
#[derive(Clone)]
struct Shares;

impl Decoder for Shares {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let size = if src.first() == Some(&b'L') { 20_000 } else { 20 };
        Ok((src.len() >= size).then(|| src.split_to(size).freeze()))
    }
}

impl Encoder<Bytes> for Shares {
    type Error = io::Error;

    fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        dst.extend_from_slice(&frame);
        Ok(())
    }
}

/// The handle of a frame, those of the buffer it shares, and what the allocator rounds up.
const AROUND: usize = 200;

fn a_kept_frame_keeps_alive_only_the_bytes_read_with_it() {
    let small = [b's'; 20];
    // One at a time; bursts, of which the last frame is kept; the same behind a large frame.
    keeps(&[], 20);
    keeps(&small.repeat(29), 20 * 30);
    keeps(&small.repeat(199), 20 * 200);
    keeps(&small.repeat(1499), 20 * 1500);
    keeps(&[&[b'L'; 20_000][..], &small.repeat(9)].concat(), 20 * 10);
    keeps(&[&[b'L'; 20_000][..], &small.repeat(299)].concat(), 20 * 300);
}

/// Keeps the last frame of each of a hundred bursts, and checks what that takes.
fn keeps(before: &[u8], at_most: usize) {
    let burst = [before, &[b'k'; 20]].concat();
    let check = |used, kept: &Mutex<Vec<Bytes>>| {
        assert_eq!(kept.lock().expect("nobody panics").len(), 110);
        assert!(
            used <= 100 * (at_most + AROUND),
            "{} bytes for a frame out of {at_most}",
            used / 100
        );
    };
    let kept = Arc::new(Mutex::new(Vec::with_capacity(1000)));
    let keep = keeper(&kept);
    let echo = reply_fn(move |frame: Bytes| {
        keep(&frame);
        frame
    });
    check(used(&mut Served::new(framed(Shares, echo), &burst)), &kept);

    let kept = Arc::new(Mutex::new(Vec::with_capacity(1000)));
    let keep = keeper(&kept);
    let echo = session(Shares, move |mut s: Session<Shares>| {
        let keep = keep.clone();
        async move {
            while let Some(frame) = s.next().await? {
                keep(&frame);
                s.feed(frame)?;
            }
            Ok(())
        }
    });
    check(used(&mut Served::new(echo, &burst)), &kept);
}

fn keeper(kept: &Arc<Mutex<Vec<Bytes>>>) -> impl Fn(&Bytes) + Clone + Send + Sync + 'static {
    let kept = Arc::clone(kept);
    move |frame| {
        if frame.starts_with(b"k") {
            kept.lock().expect("nobody panics").push(frame.clone());
        }
    }
}

/// What the leaf holds more after a hundred bursts.
fn used<F: Future>(served: &mut Served<F>) -> usize {
    served.send(10);
    let stats = served.send(100);
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}
