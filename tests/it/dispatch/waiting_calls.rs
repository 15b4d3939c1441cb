//! When the answers of calls that wait are written: a burst in one write if each waits for a turn
//! of the scheduler, and at once if one takes longer.

use std::collections::HashMap;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use ropewalk::connection::Stream;
use ropewalk::{
    Addr, Connection, Lines, Peer, Reply, Result, Session, framed, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tower::Service;

use crate::wired::{Wired, settle, wired};

const SLOW: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(1);

/// What all these services do with a line.
async fn wait(line: Bytes) -> Result<Bytes> {
    match &line[..] {
        b"slow" => sleep(SLOW).await,
        b"tick" => sleep(TICK).await,
        b"turns" => {
            for _ in 0..3 {
                yield_now().await;
            }
        }
        b"ready" => {}
        _ => yield_now().await,
    }
    Ok(line)
}

/// An answer that is the same line, from another task.
fn from_a_channel(line: Bytes) -> Reply<Bytes> {
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move { send.send(wait(line).await).await });
    Reply::stream(stream::unfold(receive, async |mut receive| {
        Some((receive.recv().await?, receive))
    }))
}

/// Every way to wait for something under a connection.
fn all_ways() -> Vec<(&'static str, Wired)> {
    let during = async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            let line = s.during(wait(line)).await??;
            s.feed(line)?;
        }
        Ok(())
    };
    let service = || service_fn(wait);
    vec![
        ("framed", wired(framed(Lines::lf(), service()))),
        ("concurrent(4)", wired(framed(Lines::lf(), service()).concurrent(4))),
        ("concurrent(64)", wired(framed(Lines::lf(), service()).concurrent(64))),
        ("unordered(64)", wired(framed(Lines::lf(), service()).unordered(64))),
        ("during", wired(session(Lines::lf(), during))),
        (
            "drive",
            wired(session(Lines::lf(), |s: Session<_>| s.drive(service_fn(wait)).into_future())),
        ),
        ("stream", wired(framed(Lines::lf(), service_fn(async |line| Ok(from_a_channel(line)))))),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_calls_that_wait_a_turn_costs_one_write() {
    for (way, mut w) in all_ways() {
        for _ in 0..3 {
            let (reads, writes) = (w.calls.reads(), w.calls.writes());
            let burst: String = (0..64).map(|n| format!("{n}\n")).collect();
            w.say(&burst).await;
            w.expect(&burst).await;
            settle().await;
            let (reads, writes) = (w.calls.reads() - reads, w.calls.writes() - writes);
            // `during` comes before the last answer is there: those ahead of it go out.
            assert!(
                reads == 1 && writes <= if way == "during" { 2 } else { 1 },
                "{way}: {reads} reads, {writes} writes"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_frames_each_take_a_turn_is_polled_once_before_each() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let answer = move |line| {
        let counted = Arc::clone(&counted);
        let (send, mut receive) = mpsc::channel(1);
        tokio::spawn(async move { send.send(wait(line).await).await });
        let frames = stream::poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            receive.poll_recv(cx)
        });
        async { Result::Ok(Reply::stream(frames)) }
    };
    let mut w = wired(framed(Lines::lf(), service_fn(answer)));
    for _ in 0..3 {
        let burst: String = (0..64).map(|n| format!("{n}\n")).collect();
        w.say(&burst).await;
        w.expect(&burst).await;
        settle().await;
        // Pending, a frame, and the end; at the beginning of a burst a few more.
        let polls = polls.swap(0, Ordering::Relaxed);
        assert!(polls <= 3 * 64 + 4, "{polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_ahead_of_a_slow_call_are_written_within_one_turn() {
    for (way, mut w) in all_ways() {
        for ahead in ["ready\nready\n", "a\nb\n", "ready\nb\n"] {
            let start = Instant::now();
            w.say([ahead, "slow\nlast\n"].concat()).await;
            w.expect(ahead).await;
            assert_eq!(
                start.elapsed(),
                Duration::ZERO,
                "{way}: the answers ahead wait for the slow one"
            );
            if way == "unordered(64)" {
                w.expect("last\nslow\n").await;
            } else {
                w.expect("slow\nlast\n").await;
            }
            assert_eq!(start.elapsed(), SLOW, "{way}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_calls_that_each_take_several_turns_costs_one_write_ahead_of_them() {
    for (way, mut w) in all_ways() {
        // Those that run together are done after as many turns, and are written as they are done.
        if way.starts_with("concurrent") || way.starts_with("unordered") {
            continue;
        }
        for _ in 0..3 {
            let (start, writes) = (Instant::now(), w.calls.writes());
            let burst = "turns\n".repeat(64);
            w.say(&burst).await;
            w.expect(&burst).await;
            assert_eq!(start.elapsed(), Duration::ZERO, "{way}");
            settle().await;
            let writes = w.calls.writes() - writes;
            // The first call is ahead of one that takes longer than a turn; `during` writes ahead
            // of the last.
            assert!(writes <= if way == "during" { 3 } else { 2 }, "{way}: {writes} writes");
            sleep(SLOW).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_ahead_of_a_slow_call_behind_another_one_are_written_within_two_milliseconds() {
    for (way, mut w) in all_ways() {
        let start = Instant::now();
        w.say("ready\nturns\nready\nslow\nlast\n").await;
        w.expect(if way == "unordered(64)" { "ready\nready\n" } else { "ready\n" }).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "{way}");
        if way == "unordered(64)" {
            continue;
        }
        w.expect("turns\nready\n").await;
        // A millisecond, and one in which the clock of the timers ticks.
        assert!(start.elapsed() <= Duration::from_millis(2), "{way}: {:?}", start.elapsed());
        w.expect("slow\nlast\n").await;
        assert_eq!(start.elapsed(), SLOW, "{way}");
    }
}

/// The longest time without a byte until all of these lines are answered.
async fn longest_gap(w: &mut Wired, lines: &str) -> Duration {
    w.say(lines).await;
    let mut last = Instant::now();
    let mut gap = Duration::ZERO;
    let mut left = lines.len();
    let mut buf = [0; 4096];
    while left > 0 {
        left -= w.peer.read(&mut buf).await.unwrap();
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    gap
}

/// Ways in which one call after the other waits.
fn ways_one_by_one() -> impl Iterator<Item = (&'static str, Wired)> {
    all_ways()
        .into_iter()
        .filter(|(way, _)| !way.contains("ordered") && !way.contains("concurrent"))
}

#[tokio::test(start_paused = true)]
async fn the_longer_a_burst_of_quick_calls_lasts_the_fewer_its_writes_and_8_ms_bring_one() {
    for (way, mut w) in ways_one_by_one() {
        // Seven are done at once, and the eighth takes a millisecond or two.
        let burst = ["turns\n".repeat(7).as_str(), "tick\n"].concat().repeat(40);
        let writes = w.calls.writes();
        let gap = longest_gap(&mut w, &burst).await;
        let writes = w.calls.writes() - writes;
        assert!(writes <= 15, "{way}: {writes} writes");
        assert!(gap <= Duration::from_millis(10), "{way}: {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_of_calls_that_take_a_millisecond_each_are_not_kept_for_others() {
    for (way, mut w) in ways_one_by_one() {
        let gap = longest_gap(&mut w, &"tick\n".repeat(20)).await;
        assert!(gap <= Duration::from_millis(4), "{way}: {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_alone_is_answered_when_it_is_done() {
    for (way, mut w) in all_ways() {
        let start = Instant::now();
        w.say("slow\n").await;
        w.expect("slow\n").await;
        assert_eq!(start.elapsed(), SLOW, "{way}");
        assert_eq!(w.finish().await, "", "{way}");
        w.end().await.unwrap();
    }
}

/// Calls that end when the test says so.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<HashMap<Bytes, oneshot::Sender<()>>>>);

impl Held {
    async fn hold(self, line: Bytes) -> Result<Bytes> {
        let (go, wait) = oneshot::channel();
        self.0.lock().unwrap().insert(line.clone(), go);
        wait.await?;
        Ok(line)
    }

    /// Lets each of them go, in an order that has nothing to do with that of the frames, now and
    /// then a few together.
    async fn release(&self) {
        let mut all: Vec<_> = self.0.lock().unwrap().drain().collect();
        all.sort_by_key(|(line, _)| {
            line.iter()
                .fold(7_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9))
        });
        for (n, (_, go)) in all.into_iter().enumerate() {
            go.send(()).unwrap();
            if n % 5 == 0 {
                settle().await;
            }
        }
    }
}

#[tokio::test]
async fn many_calls_that_end_in_any_order_are_all_answered() {
    for n in [1, 2, 5, 1000] {
        for ordered in [true, false] {
            let held = Held::default();
            let calls = held.clone();
            let leaf = framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line)));
            let mut w = if ordered { wired(leaf.concurrent(n)) } else { wired(leaf.unordered(n)) };
            for _ in 0..3 {
                let lines: Vec<_> = (0..n).map(|i| i.to_string()).collect();
                w.say(lines.iter().map(|line| format!("{line}\n")).collect::<String>()).await;
                settle().await;
                assert_eq!(held.0.lock().unwrap().len(), n);
                held.release().await;
                let mut heard = vec![0; lines.iter().map(|line| line.len() + 1).sum()];
                w.peer.read_exact(&mut heard).await.unwrap();
                let heard = String::from_utf8(heard).unwrap();
                let mut heard: Vec<_> = heard.lines().map(str::to_owned).collect();
                if !ordered {
                    heard.sort_by_key(|line| line.parse::<usize>().unwrap());
                }
                assert_eq!(heard, lines, "{n} at once, ordered: {ordered}");
            }
            assert_eq!(w.finish().await, "");
            w.end().await.unwrap();
        }
    }
}

#[tokio::test]
async fn calls_wake_the_task_that_the_connection_has_moved_to() {
    for ordered in [true, false] {
        let held = Held::default();
        let calls = held.clone();
        let leaf = framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line)));
        let (mut peer, io) = duplex(1024);
        let connection = Connection::new(Stream::from_io(io), Peer::new(Addr::Memory));
        peer.write_all(b"a\nb\nc\n").await.unwrap();
        let mut ordered_leaf = leaf.clone().concurrent(8);
        let mut unordered_leaf = leaf.unordered(8);
        let run: std::pin::Pin<Box<dyn Future<Output = Result> + Send>> = if ordered {
            Box::pin(ordered_leaf.call(connection))
        } else {
            Box::pin(unordered_leaf.call(connection))
        };
        let mut run = pin!(run);
        // Nobody hears of this waker.
        for _ in 0..3 {
            assert!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(held.0.lock().unwrap().len(), 3);
        // Each of them has a waker of its own for the connection.
        let mut others: FuturesUnordered<_> = FuturesUnordered::new();
        others.push(run);
        let release = async {
            settle().await;
            held.release().await;
            let mut heard = [0; 6];
            peer.read_exact(&mut heard).await.unwrap();
            peer.shutdown().await.unwrap();
        };
        let (ended, ()) = tokio::join!(others.next(), release);
        ended.unwrap().unwrap();
    }
}

/// A call that is never done, and tells which wakers it was polled with.
async fn wakers(line: Bytes, polled: Arc<Mutex<Vec<(Bytes, Waker)>>>) -> Result<Bytes> {
    poll_fn(|cx| {
        polled.lock().unwrap().push((line.clone(), cx.waker().clone()));
        Poll::<()>::Pending
    })
    .await;
    Ok(line)
}

/// Counts how often it wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A timer or a channel may be about to wake the task that the connection was moved from.
#[test]
fn a_waker_of_the_task_before_does_not_hide_one_of_the_task_that_polls_now() {
    let polled = Arc::<Mutex<Vec<_>>>::default();
    let note = Arc::clone(&polled);
    let mut leaf =
        framed(Lines::lf(), service_fn(move |line| wakers(line, Arc::clone(&note)))).concurrent(16);
    let (mut peer, io) = duplex(1024);
    let written = pin!(peer.write_all(b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"));
    assert!(written.poll(&mut Context::from_waker(Waker::noop())).is_ready());
    let mut run = pin!(leaf.call(Connection::new(Stream::from_io(io), Peer::new(Addr::Memory))));
    let mut poll =
        |waker: &Waker| assert!(run.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    for _ in 0..3 {
        poll(Waker::noop());
    }
    let before: Vec<_> = polled.lock().unwrap().drain(..).collect();
    let now = Arc::new(Wakes::default());
    poll(&Waker::from(Arc::clone(&now)));
    let after: Vec<_> = polled.lock().unwrap().drain(..).collect();
    let of = |wakers: &[(Bytes, Waker)], line: &str| {
        wakers.iter().rfind(|(of, _)| of == line).unwrap().1.clone()
    };
    of(&before, "2").wake();
    let woken = now.0.load(Ordering::SeqCst);
    of(&after, "9").wake();
    assert_eq!(
        now.0.load(Ordering::SeqCst),
        woken + 1,
        "the task that polls the connection is not woken"
    );
}
