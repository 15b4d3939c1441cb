//! Stock tower layers that limit: time, rate and how many at once, of frames and of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::Connector;
use ropewalk::{CloseReason, Error, Lines, Reply, Server, framed, per_connection, reply_fn};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower::{Layer, ServiceBuilder};

use crate::harness::{
    Gauge, all_done, answering, ask, assert_cut, assert_reasons, expect, on_memory, plain, rest,
    run, settle, shout, until,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_timeout_is_an_answer_and_the_connection_goes_on() {
    let inside = Gauge::default();
    let service = ServiceBuilder::new()
        .timeout(5 * SECOND)
        .service(answering(&Arc::new(Semaphore::new(0)), &inside));
    let service = framed(Lines::lf(), service).on_error(|error: &Error| {
        assert!(error.downcast_ref::<Elapsed>().is_some(), "{error}");
        Bytes::from_static(b"504 too slow")
    });
    run(service, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "quick\n", "QUICK\n").await;
        let start = Instant::now();
        ask(&mut client, "slow\nquick\n", "504 too slow\nQUICK\n").await;
        assert_eq!(start.elapsed(), 5 * SECOND);
        assert_eq!(inside.now(), 0, "the call was dropped");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_on_error_ends_the_connection_behind_the_earlier_answers() {
    let service = ServiceBuilder::new().timeout(SECOND).service(plain());
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"quick\nslow\nnever\n").await.unwrap();
    assert_eq!(rest(&mut client).await, "QUICK\n");
    drop(client);
    server.until("it has ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::ServiceError, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_holds_no_permit_of_a_concurrency_limit() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let service = ServiceBuilder::new().concurrency_limit(1).service(answering(&gate, &inside));
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let mut idle = connector.connect().await.unwrap();
        ask(&mut idle, "first\n", "FIRST\n").await;
        let mut half = connector.connect().await.unwrap();
        half.write_all(b"half a fr").await.unwrap();
        settle().await;
        // One has been served and waits, one has sent a part of a frame: neither stands in the way.
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "second\n", "SECOND\n").await;
        // A call does.
        client.write_all(b"slow\n").await.unwrap();
        until("it is inside", || inside.now() == 1).await;
        idle.write_all(b"third\n").await.unwrap();
        half.write_all(b"ame\n").await.unwrap();
        settle().await;
        assert_eq!((inside.now(), inside.ever()), (1, 3));
        gate.add_permits(1);
        expect(&mut client, "SLOW\n").await;
        expect(&mut idle, "THIRD\n").await;
        expect(&mut half, "HALF A FRAME\n").await;
        assert_eq!(inside.most(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_off_gives_its_permit_back() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let service = ServiceBuilder::new().concurrency_limit(1).service(answering(&gate, &inside));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut waits = connector.connect().await.unwrap();
    for _ in 0..5 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"slow\n").await.unwrap();
        until("it is inside", || inside.now() == 1).await;
        waits.write_all(b"next\n").await.unwrap();
        client.abort();
        expect(&mut waits, "NEXT\n").await;
    }
    drop(waits);
    server.until("all have left", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::PeerReset, 5)]);
}

#[tokio::test(start_paused = true)]
async fn shed_load_is_an_answer_and_the_connection_goes_on() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let service =
        ServiceBuilder::new().load_shed().concurrency_limit(1).service(answering(&gate, &inside));
    let service = framed(Lines::lf(), service).on_error(|error: &Error| {
        assert!(error.downcast_ref::<Overloaded>().is_some(), "{error}");
        Reply::one(Bytes::from_static(b"503 busy"))
    });
    run(service, async |connector: Connector| {
        let mut busy = connector.connect().await.unwrap();
        busy.write_all(b"slow\n").await.unwrap();
        until("it is inside", || inside.now() == 1).await;
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\nb\n", "503 busy\n503 busy\n").await;
        gate.add_permits(1);
        expect(&mut busy, "SLOW\n").await;
        ask(&mut client, "c\n", "C\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_for_each_connection_spreads_its_frames() {
    let service = per_connection(Lines::lf(), |_| {
        ServiceBuilder::new().rate_limit(2, SECOND).service(reply_fn(|line: Bytes| shout(&line)))
    });
    run(service, async |connector: Connector| {
        let start = Instant::now();
        let mut greedy = connector.connect().await.unwrap();
        greedy.write_all(b"a\nb\nc\nd\ne\n").await.unwrap();
        expect(&mut greedy, "A\nB\n").await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        // A neighbour has a rate of its own.
        let mut modest = connector.connect().await.unwrap();
        ask(&mut modest, "x\ny\n", "X\nY\n").await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        expect(&mut greedy, "C\nD\n").await;
        assert_eq!(start.elapsed().as_secs(), 1);
        expect(&mut greedy, "E\n").await;
        assert_eq!(start.elapsed().as_secs(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_never_ready_stops_its_own_connection_only() {
    let turn = Arc::new(AtomicUsize::new(0));
    let service = per_connection(Lines::lf(), move |_| {
        // The first connection has a limit of 0.
        let permits = turn.fetch_add(1, Ordering::SeqCst);
        ConcurrencyLimitLayer::new(permits).layer(reply_fn(|line: Bytes| shout(&line)))
    });
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut stuck = connector.connect().await.unwrap();
    stuck.write_all(b"never\n").await.unwrap();
    settle().await;
    for _ in 0..3 {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\n", "A\n").await;
    }
    server.until("they have left", |counts| counts.closed_in_all() == 3).await;
    // It is noticed when it goes away.
    let mut gone = connector.connect().await.unwrap();
    ask(&mut gone, "a\n", "A\n").await;
    drop(gone);
    let start = Instant::now();
    server.handle().drain(10 * SECOND);
    assert_cut(&mut stuck).await;
    assert_eq!(start.elapsed(), 10 * SECOND);
    let counts = server.over().await;
    assert_eq!((counts.closed(CloseReason::Aborted), counts.accepted()), (1, 5), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_off_is_noticed_while_its_service_is_not_ready() {
    let service = ServiceBuilder::new().concurrency_limit(0).service(plain());
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"never\n").await.unwrap();
    settle().await;
    client.abort();
    server.until("it is noticed", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::PeerReset, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_stock_timeout_around_connections_ends_each_after_its_time() {
    let server = Server::new().layer(tower::timeout::TimeoutLayer::new(3 * SECOND));
    let (server, connector) = on_memory(server, framed(Lines::lf(), plain())).await;
    let start = Instant::now();
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    assert_cut(&mut client).await;
    assert_eq!(start.elapsed(), 3 * SECOND);
    server.until("it has ended", |counts| counts.active() == 0).await;
    assert_eq!(server.end().await.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stock_concurrency_limit_around_connections_leaves_the_rest_in_the_backlog() {
    let server = Server::new().layer(ConcurrencyLimitLayer::new(1));
    let (server, connector) = on_memory(server, framed(Lines::lf(), plain())).await;
    let mut first = connector.connect().await.unwrap();
    let mut second = connector.connect().await.unwrap();
    ask(&mut first, "a\n", "A\n").await;
    second.write_all(b"b\n").await.unwrap();
    settle().await;
    assert_eq!(server.counts().accepted(), 1);
    drop(first);
    expect(&mut second, "B\n").await;
    drop(second);
    all_done(server).await;
}
