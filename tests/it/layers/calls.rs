//! Our layers for calls, under a server: deadline, limit, rate, latency, and all of them together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::{CallRefused, CallTimedOut};
use ropewalk::memory::{self, Connector};
use ropewalk::{
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, CloseReason, CodecExt, Error,
    FrameLogLayer, FrameRateLayer, Lines, Reply, Server, framed, reply_fn, service_fn,
};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::harness::{
    Gauge, Running, answering, ask, assert_reasons, expect, on_memory, plain, rest, run, settle,
    shout, until,
};

const SECOND: Duration = Duration::from_secs(1);

/// Never answers `slow`.
fn stuck(
    inside: &Gauge,
) -> impl Service<Bytes, Response = Bytes, Error = Error, Future: Send + 'static>
+ Clone
+ Send
+ 'static
+ use<> {
    answering(&Arc::new(Semaphore::new(0)), inside)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_late_is_answered_and_the_connection_goes_on() {
    for concurrent in [1, 4] {
        let inside = Gauge::default();
        let service =
            ServiceBuilder::new().layer(CallDeadlineLayer::new(5 * SECOND)).service(stuck(&inside));
        let service =
            framed(Lines::lf(), service).concurrent(concurrent).on_error(|error: &Error| {
                assert!(error.downcast_ref::<CallTimedOut>().is_some(), "{error}");
                Bytes::from_static(b"504 too slow")
            });
        run(service, async |connector: Connector| {
            let mut client = connector.connect().await.unwrap();
            for _ in 0..3 {
                let start = Instant::now();
                ask(&mut client, "quick\nslow\nquick\n", "QUICK\n504 too slow\nQUICK\n").await;
                assert_eq!(start.elapsed(), 5 * SECOND);
                assert_eq!(inside.now(), 0, "the call was dropped");
                sleep(SECOND).await;
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_call_without_on_error_ends_the_connection_behind_the_earlier_answers() {
    let service = ServiceBuilder::new()
        .layer(CallDeadlineLayer::new(SECOND))
        .service(stuck(&Gauge::default()));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"quick\nslow\nnever\n").await.unwrap();
    assert_eq!(rest(&mut client).await, "QUICK\n");
    drop(client);
    server.until("it has ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::ServiceError, 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_all_connections_share_a_cap_and_an_idle_one_holds_no_place() {
    let (gate, inside, limit) =
        (Arc::new(Semaphore::new(0)), Gauge::default(), CallLimitLayer::new(2));
    let service = ServiceBuilder::new().layer(limit.clone()).service(answering(&gate, &inside));
    run(framed(Lines::lf(), service).concurrent(4), async |connector: Connector| {
        let mut idle = connector.connect().await.unwrap();
        ask(&mut idle, "first\n", "FIRST\n").await;
        let mut half = connector.connect().await.unwrap();
        half.write_all(b"half a fr").await.unwrap();
        settle().await;
        assert_eq!(limit.active(), 0);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = connector.connect().await.unwrap();
            client.write_all(b"slow\nslow\n").await.unwrap();
            clients.push(client);
        }
        until("two are inside", || inside.now() == 2).await;
        gate.add_permits(10);
        for client in &mut clients {
            expect(client, "SLOW\nSLOW\n").await;
        }
        ask(&mut half, "ame\n", "HALF A FRAME\n").await;
        assert_eq!((inside.most(), limit.active()), (2, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_off_in_the_queue_or_in_a_call_gives_its_place_back() {
    let (gate, inside, limit) =
        (Arc::new(Semaphore::new(0)), Gauge::default(), CallLimitLayer::new(1));
    let service = ServiceBuilder::new().layer(limit.clone()).service(answering(&gate, &inside));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut last = connector.connect().await.unwrap();
    for _ in 0..3 {
        let mut has = connector.connect().await.unwrap();
        has.write_all(b"slow\n").await.unwrap();
        until("it is inside", || inside.now() == 1).await;
        let mut waits = connector.connect().await.unwrap();
        waits.write_all(b"slow\n").await.unwrap();
        settle().await;
        last.write_all(b"last\n").await.unwrap();
        settle().await;
        waits.abort();
        has.abort();
        expect(&mut last, "LAST\n").await;
    }
    drop(last);
    server.until("all have left", |counts| counts.active() == 0).await;
    assert_eq!(limit.active(), 0);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::PeerReset, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_answers_keeps_no_slot_from_the_others() {
    for unordered in [false, true] {
        let (gate, limit) = (Arc::new(Semaphore::new(0)), CallLimitLayer::new(1));
        // Long answers: above the mark nothing more is decoded, and a frame that was waits for a
        // place.
        let service = ServiceBuilder::new()
            .map_response(|line: Bytes| [&line[..], &[b'.'; 1 << 18]].concat())
            .layer(limit.clone())
            .service(answering(&gate, &Gauge::default()));
        let leaf = framed(Lines::lf().max(1 << 20), service);
        let talk = async |connector: Connector| {
            let mut deaf = connector.connect().await.unwrap();
            deaf.write_all(b"slow\nnext\n").await.unwrap();
            until("one has the place", || limit.active() == 1).await;
            settle().await;
            let mut other = connector.connect().await.unwrap();
            let start = Instant::now();
            gate.add_permits(1);
            settle().await;
            other.write_all(b"other\n").await.unwrap();
            expect(&mut other, "OTHER").await;
            assert_eq!(start.elapsed(), Duration::ZERO, "unordered: {unordered}");
            drop((deaf, other));
        };
        let (server, connector) = if unordered {
            on_memory(Server::new(), leaf.unordered(4)).await
        } else {
            on_memory(Server::new(), leaf.concurrent(4)).await
        };
        talk(connector).await;
        server.until("all have left", |counts| counts.active() == 0).await;
        assert_eq!(limit.active(), 0);
        server.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_over_the_cap_is_refused_and_takes_no_place_from_the_next() {
    let (gate, limit) = (Arc::new(Semaphore::new(0)), CallLimitLayer::new(1).refuse());
    let inside = Gauge::default();
    let service = ServiceBuilder::new().layer(limit.clone()).service(answering(&gate, &inside));
    let service = framed(Lines::lf(), service).on_error(|error: &Error| {
        assert!(error.downcast_ref::<CallRefused>().is_some(), "{error}");
        Bytes::from_static(b"503 busy")
    });
    run(service, async |connector: Connector| {
        let mut busy = connector.connect().await.unwrap();
        busy.write_all(b"slow\n").await.unwrap();
        until("it is inside", || inside.now() == 1).await;
        let mut refused = connector.connect().await.unwrap();
        ask(&mut refused, "a\nb\n", "503 busy\n503 busy\n").await;
        gate.add_permits(1);
        expect(&mut busy, "SLOW\n").await;
        // The refused caller is idle now, and holds nothing.
        assert_eq!((limit.active(), limit.max()), (0, 1));
        ask(&mut busy, "again\n", "AGAIN\n").await;
        ask(&mut refused, "c\n", "C\n").await;
        assert_eq!(inside.most(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_call_was_refused_keeps_no_slot_of_a_limit_behind() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (limit, pool) = (CallLimitLayer::new(1).refuse(), CallLimitLayer::new(4));
    let service = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(pool.clone())
        .service(answering(&gate, &inside));
    let service =
        framed(Lines::lf(), service).on_error(|_: &Error| Bytes::from_static(b"503 busy"));
    run(service, async |connector: Connector| {
        let mut busy = connector.connect().await.unwrap();
        busy.write_all(b"slow\n").await.unwrap();
        until("it is inside", || inside.now() == 1).await;
        let mut refused = Vec::new();
        for _ in 0..3 {
            let mut client = connector.connect().await.unwrap();
            ask(&mut client, "a\n", "503 busy\n").await;
            refused.push(client);
        }
        assert_eq!((limit.active(), pool.active()), (1, 1));
        gate.add_permits(1);
        expect(&mut busy, "SLOW\n").await;
        assert_eq!((limit.active(), pool.active()), (0, 0));
        for client in &mut refused {
            ask(client, "b\n", "B\n").await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_over_its_rate_keeps_no_slot_from_the_others() {
    let limit = CallLimitLayer::new(1);
    let service = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(FrameRateLayer::new(1, 60 * SECOND))
        .service(plain());
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let mut greedy = connector.connect().await.unwrap();
        let mut modest = connector.connect().await.unwrap();
        let start = Instant::now();
        ask(&mut greedy, "a\nb\n", "A\n").await;
        settle().await;
        assert_eq!(limit.active(), 0);
        ask(&mut modest, "x\n", "X\n").await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        expect(&mut greedy, "B\n").await;
        assert_eq!(start.elapsed(), 60 * SECOND);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_holds_each_connection_by_itself() {
    let service = ServiceBuilder::new().layer(FrameRateLayer::new(2, SECOND)).service(plain());
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let start = Instant::now();
        let mut greedy = connector.connect().await.unwrap();
        greedy.write_all(b"a\nb\nc\nd\n").await.unwrap();
        expect(&mut greedy, "A\nB\n").await;
        let mut modest = connector.connect().await.unwrap();
        ask(&mut modest, "x\ny\n", "X\nY\n").await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        expect(&mut greedy, "C\n").await;
        assert_eq!(start.elapsed(), SECOND / 2);
        expect(&mut greedy, "D\n").await;
        assert_eq!(start.elapsed(), SECOND);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_over_its_rate_is_held_up_by_its_own_socket() {
    let service = ServiceBuilder::new()
        .layer(FrameRateLayer::bytes(1000, SECOND))
        .service(reply_fn(|_: Bytes| "."));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut client = connector.connect().await.unwrap();
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let mut taken = 0;
    while timeout(SECOND / 2, client.write_all(&line)).await.is_ok() {
        taken += line.len();
    }
    // One buffer of ours, one of the pipe's, and what has been answered.
    assert!(taken <= 3 * 64 * 1024, "{taken} bytes were taken");
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_latency_of_all_connections_is_in_one_histogram() {
    let layer = CallLatencyLayer::new();
    let histogram = layer.histogram();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(CallDeadlineLayer::new(SECOND))
        .service(stuck(&Gauge::default()));
    let service = framed(Lines::lf(), service).on_error(|_: &Error| Bytes::from_static(b"504"));
    run(service, async |connector: Connector| {
        for _ in 0..9 {
            ask(&mut connector.connect().await.unwrap(), "quick\n", "QUICK\n").await;
        }
        ask(&mut connector.connect().await.unwrap(), "slow\n", "504\n").await;
    })
    .await;
    assert_eq!(histogram.count(), 10);
    assert!(histogram.quantile(0.9) < SECOND / 1000);
    assert!(histogram.quantile(1.0) >= SECOND);
}

#[tokio::test(start_paused = true)]
async fn all_of_them_together_serve_frames_of_any_type() {
    let layers = ServiceBuilder::new()
        .layer(FrameRateLayer::new(1000, SECOND))
        .layer(CallLimitLayer::new(10))
        .layer(CallDeadlineLayer::new(SECOND))
        .layer(CallLatencyLayer::new());
    let numbers = layers.service(reply_fn(|n: u32| (n + 1).to_string()));
    run(
        framed(
            Lines::lf().try_map(|line: Bytes| String::from_utf8_lossy(&line).parse::<u32>()),
            numbers,
        ),
        async |connector: Connector| {
            ask(&mut connector.connect().await.unwrap(), "1\n41\n", "2\n42\n").await;
        },
    )
    .await;
    let lines = layers.layer(FrameLogLayer::new()).service(reply_fn(|line: Bytes| shout(&line)));
    run(framed(Lines::lf(), lines), async |connector: Connector| {
        ask(&mut connector.connect().await.unwrap(), "a\nb\n", "A\nB\n").await;
    })
    .await;
}

/// A blocking client with a runtime of its own, as one uses it within a call.
fn ask_elsewhere(runtime: &Runtime) {
    let slow = tower::service_fn(async |line: Bytes| {
        sleep(Duration::from_millis(1)).await;
        Ok::<_, std::io::Error>(line)
    });
    let client = CallDeadlineLayer::new(SECOND * 3600).layer(slow);
    tokio::task::block_in_place(|| runtime.block_on(client.oneshot(Bytes::new()))).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_passes_whatever_runtime_a_call_before_it_used() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    // It is not polled any more, so its timers don't fire.
    let idle = Arc::new(runtime());
    let shared = Arc::clone(&idle);
    let service = service_fn(move |line: Bytes| {
        let idle = Arc::clone(&shared);
        async move {
            match &line[..] {
                b"idle" => ask_elsewhere(&idle),
                b"gone" => tokio::task::block_in_place(|| ask_elsewhere(&runtime())),
                _ => std::future::pending().await,
            }
            Ok(line)
        }
    });
    let service = CallDeadlineLayer::new(SECOND / 10).layer(service);
    let leaf = framed(Lines::lf(), service).on_error(|_: &Error| Bytes::from("late"));
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "idle\ngone\nwait\nidle\nwait\n", "idle\ngone\nlate\nidle\nlate\n").await;
    drop(client);
    server.end().await;
    // A runtime may not end where another runs.
    tokio::task::block_in_place(|| drop(idle));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_last_answer_keeps_no_slot_from_others() {
    for requests in ["close\n", "close\nnext\n"] {
        let service = service_fn(async |line: Bytes| {
            sleep(SECOND / 10).await;
            Ok(match &line[..] {
                b"close" => {
                    Reply::many((0..200).map(|_| Bytes::from(vec![b'x'; 16_000]))).then_close()
                }
                _ => Reply::one(line),
            })
        });
        let (endpoint, connector) = memory::endpoint_with_capacity(1024);
        let leaf = framed(Lines::lf(), CallLimitLayer::new(1).layer(service)).concurrent(2);
        let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
        let mut deaf = connector.connect().await.unwrap();
        deaf.write_all(requests.as_bytes()).await.unwrap();
        sleep(SECOND).await;
        let start = Instant::now();
        let mut other = connector.connect().await.unwrap();
        ask(&mut other, "x\n", "x\n").await;
        assert!(start.elapsed() < SECOND, "behind {requests:?}: {:?}", start.elapsed());
        drop((deaf, other));
        server.end().await;
    }
}
