//! A drain ends by its deadline, and a stop at once.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory;
use ropewalk::{CloseReason, Handle, Lines, Result, Server, Session, framed, service_fn, session};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::harness::{
    Gauge, Hold, LONG, Running, ask, assert_cut, assert_reasons, assert_reset, gated, on_memory,
    rest, settle, shouter, until,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_deadline_aborts_remaining_connections_exactly_then() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut stuck = connector.connect().await.unwrap();
    let mut idle = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let start = Instant::now();
    server.handle().drain(Duration::from_millis(7300));
    assert_eq!(rest(&mut idle).await, "");
    drop(idle);
    assert_cut(&mut stuck).await;
    assert_eq!(start.elapsed(), Duration::from_millis(7300));
    let counts = server.over().await;
    assert_eq!(start.elapsed(), Duration::from_millis(7300));
    assert_reasons(&counts, &[(CloseReason::Aborted, 1), (CloseReason::Drained, 1)]);
    assert_eq!(inside.now(), 0, "the call was dropped");
}

#[tokio::test(start_paused = true)]
async fn stop_ends_everything_at_once() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut stuck = connector.connect().await.unwrap();
    let mut idle = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let mut queued = connector.try_connect().unwrap();
    let start = Instant::now();
    server.handle().stop();
    assert_cut(&mut stuck).await;
    assert_cut(&mut idle).await;
    assert_reset(&mut queued).await;
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 2)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn stop_cuts_a_drain_short() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut stuck = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let start = Instant::now();
    server.handle().drain(LONG);
    sleep(SECOND).await;
    server.handle().stop();
    // Too late: it is over.
    server.handle().drain(LONG);
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_changes_the_deadline() {
    for (first, then, end) in [(600, 3, 4), (3, 10, 11)] {
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
        let mut stuck = connector.connect().await.unwrap();
        stuck.write_all(b"never answered\n").await.unwrap();
        until("the call is under way", || inside.now() == 1).await;
        let start = Instant::now();
        server.handle().drain(Duration::from_secs(first));
        sleep(SECOND).await;
        server.handle().drain(Duration::from_secs(then));
        assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
        assert_eq!(start.elapsed(), Duration::from_secs(end));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_zero_time_aborts_busy_connections_and_one_without_a_deadline_waits() {
    for within in [Duration::ZERO, Duration::MAX] {
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
        let mut busy = connector.connect().await.unwrap();
        busy.write_all(b"slow\n").await.unwrap();
        until("the call is under way", || inside.now() == 1).await;
        server.handle().drain(within);
        if within.is_zero() {
            assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
            continue;
        }
        sleep(Duration::from_secs(100_000)).await;
        gate.add_permits(1);
        assert_eq!(rest(&mut busy).await, "SLOW\n");
        drop(busy);
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_told_to_stop_before_it_serves_accepts_no_connection() {
    let (endpoint, connector) = memory::endpoint();
    let mut early = connector.connect().await.unwrap();
    let serve = Server::new().listen(endpoint).serve(shouter());
    serve.handle().stop();
    let server = Running::start(serve).await;
    assert_reset(&mut early).await;
    assert_eq!(server.over().await.accepted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_for_the_end_of_its_own_server_is_aborted_at_the_deadline() {
    let handle = Arc::new(OnceLock::<Handle>::new());
    let ours = Arc::clone(&handle);
    let service = service_fn(move |line: Bytes| {
        let handle = Arc::clone(&ours);
        async move {
            let handle = handle.get().unwrap();
            handle.drain(5 * SECOND);
            handle.ended().await;
            Ok(line)
        }
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    handle.set(server.handle().clone()).unwrap();
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    client.write_all(b"a\n").await.unwrap();
    assert_cut(&mut client).await;
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ignores_the_drain_is_aborted_at_the_deadline() {
    let deaf = session(Lines::lf(), async |s: Session<Lines>| {
        let closing = s.closing();
        pending::<()>().await;
        drop((s, closing));
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), deaf).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    server.handle().drain(3 * SECOND);
    assert_cut(&mut client).await;
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_knows_of_no_drain_has_until_the_deadline() {
    let (server, connector) = on_memory(Server::new(), Hold::default()).await;
    let mut quick = connector.connect().await.unwrap();
    let mut slow = connector.connect().await.unwrap();
    ask(&mut quick, "a", "a").await;
    ask(&mut slow, "a", "a").await;
    server.handle().drain(5 * SECOND);
    sleep(SECOND).await;
    ask(&mut quick, "still served", "still served").await;
    drop(quick);
    let counts = server.over().await;
    assert_reasons(&counts, &[(CloseReason::Aborted, 1), (CloseReason::Drained, 1)]);
    assert_cut(&mut slow).await;
}

#[tokio::test(start_paused = true)]
async fn stop_ends_also_a_session_that_was_moved_away() {
    let moved = session(Lines::lf(), async |mut s: Session<Lines>| {
        tokio::spawn(async move {
            while let Some(line) = s.next().await? {
                s.feed(line)?;
            }
            Result::<()>::Ok(())
        });
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), moved).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "a\n").await;
    server.handle().stop();
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
    client.write_all(b"b\n").await.ok();
    assert_cut(&mut client).await;
}

/// A slow machine, or a debugger: real time passes, and the test's clock stands still.
#[tokio::test(start_paused = true)]
async fn under_a_paused_clock_no_real_time_cuts_a_connection() {
    let slow = service_fn(async |line: Bytes| {
        thread::sleep(Duration::from_millis(700));
        sleep(Duration::from_millis(10)).await;
        Ok(line)
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), slow)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\nb\n").await.unwrap();
    settle().await;
    let start = Instant::now();
    server.handle().drain(Duration::from_millis(500));
    assert_eq!(rest(&mut client).await, "a\nb\n");
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    assert_eq!(start.elapsed(), Duration::from_millis(20));
}

/// The clock is paused only after the server has begun, so there is a thread that keeps the
/// deadline.
#[tokio::test]
async fn a_clock_that_is_paused_later_is_followed_as_well() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    tokio::time::pause();
    let start = Instant::now();
    server.handle().drain(Duration::from_millis(300));
    // As long as a task is ready no paused time passes.
    let real = std::time::Instant::now();
    while real.elapsed() < Duration::from_millis(900) {
        thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(server.counts().active(), 1, "its time is not over");
    assert_cut(&mut client).await;
    // Timers are whole milliseconds of a clock that was not paused at one.
    assert!((300..=301).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
}
