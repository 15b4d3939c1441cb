//! The rules of a client about its beginnings and ends: back-off, names, preparation, drain, and
//! what can be watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::poll;
use ropewalk::client::{Backoff, Client, ClientError, ClientState};
use ropewalk::{Bytes, CloseReason, Lines, Session, framed, reply_fn};
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

use crate::called::{LONG, audit, call, ends, nobody, serve, settle, soon};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn rule_8_a_server_that_accepts_and_closes_is_not_hammered() {
    let (connector, mut ends) = ends(100).await;
    let client = Client::new()
        .connect(connector)
        .backoff(Backoff::between(Duration::from_millis(100), secs(10)));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    tokio::spawn(async move {
        loop {
            drop(ends.accept().await);
        }
    });
    sleep(secs(600)).await;
    // Waits of half the bound on average: some four a second at first, and one in five seconds in
    // the end.
    let connections = handle.counts().connections();
    assert!((60..=200).contains(&connections), "{connections} connections in ten minutes");
    drop(store);
    soon(handle.ended()).await;
}

#[tokio::test(start_paused = true)]
async fn rule_8_the_back_off_begins_anew_only_after_a_connection_has_stood_for_10_s() {
    let backoff = Backoff::between(secs(8), secs(64));
    for (stands, grows) in [(secs(9), true), (secs(11), false)] {
        let (connector, mut ends) = ends(100).await;
        let client = Client::new().connect(connector).backoff(backoff);
        let (_store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
        let mut longest = secs(0);
        for _ in 0..12 {
            let end = ends.accept().await;
            sleep(stands).await;
            drop(end);
            settle().await;
            let ClientState::Waiting { until, .. } = handle.state() else {
                panic!("{:?}", handle.state())
            };
            longest = longest.max(until - Instant::now());
        }
        // The first bound is twice the minimum: without growth no wait is longer.
        assert_eq!(longest > secs(16), grows, "{longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_8_one_attempt_is_under_way_however_many_callers_wait() {
    let client = Client::new()
        .connect(nobody())
        .backoff(Backoff::between(secs(1), secs(1)))
        .call_within(secs(10));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let late = futures::future::join_all((0..1000).map(|_| store.ask("x"))).await;
    assert!(late.iter().all(|late| late.as_ref().unwrap_err().is_not_sent()));
    assert!((9..=11).contains(&handle.counts().attempts()), "{:?}", handle.counts());
}

#[tokio::test(start_paused = true)]
async fn rule_11_prepare_is_under_the_deadline_of_connecting_and_its_failure_is_a_failed_attempt() {
    let (connector, mut ends) = ends(100).await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut all = Vec::new();
        loop {
            all.push(ends.accept().await);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let client = Client::new().connect(connector).connect_within(secs(1)).call_within(secs(2));
    let client = client.prepare(async |mut s: Session<Lines>| {
        s.next().await?;
        Ok(s)
    });
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let began = Instant::now();
    assert!(matches!(soon(store.ask("x")).await, Err(ClientError::TimedOut { sent: false })));
    // Callers are looked after also while it prepares.
    assert_eq!(began.elapsed(), secs(2));
    sleep(secs(10)).await;
    assert!(accepted.load(Ordering::Relaxed) >= 3);
    assert_eq!(handle.counts().connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_drain_takes_no_new_calls_answers_those_it_has_and_closes_in_two_halves() {
    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).in_flight(2).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let a = call(&store, "a").await;
    let mut ready = store.clone();
    ready.ready().await.unwrap();
    let mut waits = store.clone();
    assert!(poll!(std::pin::pin!(waits.ready())).is_pending());
    handle.drain(secs(60));
    assert!(matches!(handle.state(), ClientState::Draining));
    assert!(matches!(ready.call("late".to_owned()).await, Err(ClientError::Draining)));
    assert!(matches!(
        soon(waits.ready()).await.unwrap().call("late".to_owned()).await,
        Err(ClientError::Draining)
    ));
    assert!(matches!(store.ask("late").await, Err(ClientError::Draining)));
    end.expect("a\n").await;
    end.say("A\n").await;
    assert_eq!(soon(a).await.unwrap(), "A");
    end.expect_end().await;
    drop(end);
    let began = Instant::now();
    soon(handle.ended()).await;
    assert!(began.elapsed() < secs(1));
    assert_eq!(handle.counts().closed(CloseReason::Done), 1);
    audit(&handle);
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_drain_is_bounded_whatever_the_server_does() {
    // One that does not answer; one that takes nothing.
    for bytes in [100, 1] {
        let (connector, mut ends) = ends(bytes).await;
        let (store, handle) =
            Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
        let _end = ends.accept().await;
        let (sent, queued) = (call(&store, "sent").await, call(&store, "queued").await);
        settle().await;
        let began = Instant::now();
        handle.drain(secs(3));
        assert!(matches!(soon(sent).await, Err(ClientError::MayHaveArrived(_))));
        let queued = soon(queued).await.unwrap_err();
        assert_eq!(queued.is_not_sent(), bytes == 1, "{queued:?}");
        soon(handle.ended()).await;
        assert_eq!(began.elapsed(), secs(3));
        audit(&handle);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_server_that_does_not_close_is_lingered_for_2_s() {
    let (connector, mut ends) = ends(100).await;
    let (_store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let _end = ends.accept().await;
    settle().await;
    let began = Instant::now();
    handle.drain(secs(60));
    soon(handle.ended()).await;
    assert_eq!(began.elapsed(), secs(2));
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_drain_while_there_is_no_connection_ends_at_once_or_with_the_queued_calls() {
    let (store, handle) =
        Client::new().connect(nobody()).pipelined::<String, _>(Lines::lf()).unwrap();
    settle().await;
    let began = Instant::now();
    handle.drain(secs(3));
    soon(handle.ended()).await;
    assert_eq!(began.elapsed(), secs(0));
    assert!(matches!(store.ask("x").await, Err(ClientError::Draining)));

    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let end = ends.accept().await;
    let mut ready = store.clone();
    soon(ready.ready()).await.unwrap();
    drop(end);
    drop(ends);
    settle().await;
    let queued = ready.call("x".to_owned());
    let began = Instant::now();
    handle.drain(secs(3));
    assert!(matches!(soon(queued).await, Err(ClientError::Draining)));
    assert_eq!(began.elapsed(), secs(3));
    soon(handle.ended()).await;
    audit(&handle);
}

#[tokio::test(start_paused = true)]
async fn rule_12_the_last_service_that_is_dropped_drains_and_calls_that_are_held_are_answered() {
    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let a = call(&store, "a").await;
    drop(store);
    end.expect("a\n").await;
    end.say("A\n").await;
    assert_eq!(soon(a).await.unwrap(), "A");
    end.expect_end().await;
    drop(end);
    soon(handle.ended()).await;
    audit(&handle);
}

#[tokio::test(start_paused = true)]
async fn rule_12_no_task_is_left_of_a_client_whose_server_is_stuck_or_gone() {
    let (connector, mut ends) = ends(100).await;
    let client = Client::new().connect(connector).stalled_after(secs(5));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let a = call(&store, "a").await;
    end.expect("a\n").await;
    let began = Instant::now();
    drop((a, store));
    soon(handle.ended()).await;
    assert_eq!(began.elapsed(), secs(5));
    audit(&handle);

    let (store, handle) =
        Client::new().connect(nobody()).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut waits = store.clone();
    assert!(poll!(std::pin::pin!(waits.ready())).is_pending());
    drop((store, waits));
    soon(handle.ended()).await;
    audit(&handle);
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_queued_call_that_is_dropped_last_lets_the_client_end() {
    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let end = ends.accept().await;
    let mut ready = store.clone();
    soon(ready.ready()).await.unwrap();
    drop((end, ends));
    settle().await;
    let queued = ready.call("x".to_owned());
    drop((store, ready));
    assert!(timeout(secs(1), handle.ended()).await.is_err());
    drop(queued);
    timeout(secs(1), handle.ended()).await.unwrap();
    audit(&handle);
}

#[tokio::test(start_paused = true)]
async fn rule_13_it_is_not_ready_while_there_is_no_connection_and_its_load_is_its_calls() {
    let (connector, mut ends) = ends(100).await;
    let (store, _handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    assert_eq!(store.in_flight(), usize::MAX);
    let mut waits = store.clone();
    assert!(poll!(std::pin::pin!(waits.ready())).is_pending());
    let mut end = ends.accept().await;
    soon(waits.ready()).await.unwrap();
    assert_eq!(store.in_flight(), 1);
    let a = call(&store, "a").await;
    assert_eq!(store.in_flight(), 2);
    end.expect("a\n").await;
    end.say("A\n").await;
    soon(a).await.unwrap();
    assert_eq!(store.in_flight(), 1);
    drop(end);
    settle().await;
    assert_eq!(store.in_flight(), usize::MAX);
}

#[tokio::test(start_paused = true)]
async fn rule_14_its_states_and_counts_are_seen_from_outside() {
    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    assert!(matches!(handle.state(), ClientState::Connecting));
    let mut end = ends.accept().await;
    soon(handle.connected()).await.unwrap();
    assert!(matches!(handle.state(), ClientState::Ready));
    let (a, b) = (call(&store, "a").await, call(&store, "b").await);
    drop(call(&store, "c").await);
    settle().await;
    drop(b);
    let counts = handle.counts();
    assert_eq!((counts.calls(), counts.pending(), counts.dropped()), (3, 1, 2));
    end.expect("a\n").await;
    end.say("A\n").await;
    soon(a).await.unwrap();
    drop((end, ends));
    settle().await;
    let ClientState::Waiting { until, error } = handle.state() else {
        panic!("{:?}", handle.state())
    };
    assert!(until > Instant::now());
    // Closed with a request unread, that is a reset.
    assert!(!error.to_string().is_empty());
    let counts = handle.counts();
    assert_eq!(
        (counts.answered(), counts.pending(), counts.attempts(), counts.connections()),
        (1, 0, 1, 1)
    );
    assert!(matches!(soon(handle.connected()).await, Err(ClientError::Unavailable(_))));
    assert!(!matches!(handle.state(), ClientState::Ended));
}

#[tokio::test]
async fn rule_9_a_name_is_looked_up_at_each_connection() {
    let server = |port: u16| async move {
        let server = ropewalk::Server::new().listen(format!("tcp:127.0.0.1:{port}"));
        let serve =
            server.serve(framed(Lines::lf(), reply_fn(|line: Bytes| line))).bind().await.unwrap();
        let handle = serve.handle();
        (handle, tokio::spawn(serve))
    };
    let (first, task) = server(0).await;
    let ropewalk::Addr::Tcp(addr) = first.addresses()[0].clone() else { panic!("no TCP") };
    // By name, which has ::1 as well on most machines: nobody listens there.
    let client = Client::new().connect(format!("tcp:localhost:{}", addr.port()));
    let client =
        client.backoff(Backoff::between(Duration::from_millis(1), Duration::from_millis(20)));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    assert_eq!(soon(store.ask("x")).await.unwrap(), "x");
    first.drain(secs(10));
    task.await.unwrap().unwrap();
    let (_second, _task) = server(addr.port()).await;
    assert_eq!(soon(store.ask("y")).await.unwrap(), "y");
    assert_eq!(handle.counts().connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn rule_15_on_one_thread_and_under_paused_time_a_call_takes_no_time() {
    let (connector, _server) = serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let (store, _handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(timeout(LONG, store.ask("x")).await.unwrap().unwrap(), "x");
    }
    assert_eq!(began.elapsed(), secs(0));
}
