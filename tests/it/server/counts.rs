//! The books of a server: every connection is counted, once, for the reason it ended.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::{self, Connector};
use ropewalk::{
    CloseReason, ConnectionLimitLayer, Error, Lines, RawBytes, Reply, Server, Session, framed,
    reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::harness::{
    Gauge, LONG, Running, ask, assert_balanced, assert_cut, assert_reasons, assert_reset, audit,
    obedient, on_memory, on_tcp, reset, rest, shout, until,
};

/// A connection that ends for each reason, one after the other.
async fn count_one(
    reason: CloseReason,
    server: Running,
    connector: Connector,
    act: impl AsyncFnOnce(Connector),
) {
    act(connector).await;
    server.until("it has closed", |counts| counts.active() == 0 && counts.accepted() > 0).await;
    let counts = server.end().await;
    assert_eq!(counts.closed(reason), 1, "{counts:?}");
    assert_eq!(counts.closed_in_all(), 1, "{counts:?}");
    let debug =
        format!("Counts {{ accepted: 1, active: 0, refused: 0, closed: {{\"{reason}\": 1}} }}");
    assert_eq!(format!("{counts:?}"), debug, "only the reasons that occurred");
}

fn shouter() -> impl ropewalk::ConnectionService<Error = Error> {
    framed(Lines::crlf().max(16), reply_fn(|line: Bytes| shout(&line)))
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_is_counted_as_done() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    count_one(CloseReason::Done, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\r\n", "A\r\n").await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_closes_is_counted_as_done() {
    let bye = framed(Lines::crlf(), reply_fn(|_: Bytes| Reply::one("bye").then_close()));
    let (server, connector) = on_memory(Server::new(), bye).await;
    count_one(CloseReason::Done, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "quit\r\nnever answered\r\n", "bye\r\n").await;
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_resets_is_counted_as_peer_reset() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    count_one(CloseReason::PeerReset, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\r\n", "A\r\n").await;
        client.abort();
    })
    .await;
}

#[tokio::test]
async fn a_tcp_peer_that_resets_is_counted_as_peer_reset_also_while_a_call_is_pending() {
    let gauge = Gauge::default();
    let inside = gauge.clone();
    let stuck = framed(
        Lines::crlf(),
        service_fn(move |_: Bytes| {
            let inside = inside.enter();
            async move {
                pending::<()>().await;
                drop(inside);
                Ok("never")
            }
        }),
    );
    let server = on_tcp(Server::new(), stuck).await;
    let mut client = server.connect().await;
    client.write_all(b"a\r\n").await.unwrap();
    until("the call is under way", || gauge.now() == 1).await;
    reset(client);
    until("the call is dropped", || gauge.now() == 0).await;
    server.until("it is counted", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::PeerReset, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_aborts_is_counted_as_aborted() {
    let abort = session(Lines::lf(), async |s: Session<Lines>| {
        s.abort();
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), abort).await;
    count_one(CloseReason::Aborted, server, connector, async |connector: Connector| {
        assert_reset(&mut connector.connect().await.unwrap()).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_frame_are_counted_as_a_codec_error() {
    for bytes in ["much too long for a line of sixteen\r\n", "cut in the mid"] {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        count_one(CloseReason::CodecError, server, connector, async |connector: Connector| {
            let mut client = connector.connect().await.unwrap();
            client.write_all(bytes.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(rest(&mut client).await, "");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_encoded_is_counted_as_a_codec_error() {
    let smuggle = framed(Lines::crlf(), reply_fn(|_: Bytes| "one\r\ntwo"));
    let (server, connector) = on_memory(Server::new(), smuggle).await;
    count_one(CloseReason::CodecError, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_counted_as_a_service_error() {
    let fail =
        framed(Lines::crlf(), service_fn(async |_: Bytes| Err::<Bytes, _>(Error::other("no"))));
    let (server, connector) = on_memory(Server::new(), fail).await;
    count_one(CloseReason::ServiceError, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_io_error_of_the_application_is_no_peer_reset() {
    // Some backend's connection broke, not this one.
    let fail = service_fn(async |_: Bytes| {
        Err::<Bytes, _>(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)))
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::crlf(), fail)).await;
    count_one(CloseReason::ServiceError, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_as_panic() {
    let fall = framed(Lines::crlf(), reply_fn(|_: Bytes| -> Bytes { panic!("on purpose") }));
    let (server, connector) = on_memory(Server::new(), fall).await;
    count_one(CloseReason::Panic, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_connection_is_counted_as_drained() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\r\n", "A\r\n").await;
    assert_reasons(&server.end().await, &[(CloseReason::Drained, 1)]);
    assert_eq!(rest(&mut client).await, "");
}

#[test]
fn connections_dropped_with_their_runtime_are_counted_as_aborted() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (handle, mut client) = runtime.block_on(async {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\r\n", "A\r\n").await;
        (server.handle().clone(), client)
    });
    drop(runtime);
    assert_reasons(&audit(&handle), &[(CloseReason::Aborted, 1)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_cut(&mut client).await;
        handle.ended().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_counted_as_a_timeout() {
    let service = framed(RawBytes, reply_fn(|_: Bytes| Bytes::from(vec![b'x'; 1 << 20])));
    let service = service.write_stall(Duration::from_secs(7));
    let (server, connector) = on_memory(Server::new(), service).await;
    count_one(CloseReason::Timeout, server, connector, async |connector: Connector| {
        let start = tokio::time::Instant::now();
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a").await.unwrap();
        // It reads nothing, and hears of the end when it writes.
        while client.write_all(&[0; 4096]).await.is_ok() {}
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_kind_and_other_connections_are_not() {
    let limit = ConnectionLimitLayer::new(1).refuse_with("full\r\n");
    let (server, connector) = on_memory(Server::new().layer(limit), shouter()).await;
    let mut first = connector.connect().await.unwrap();
    ask(&mut first, "a\r\n", "A\r\n").await;
    // They hear the text and do not close: their refusals last.
    let mut refused = Vec::new();
    for _ in 0..ropewalk::layer::limit::MAX_REFUSALS + 3 {
        let mut client = connector.connect().await.unwrap();
        assert_eq!(rest(&mut client).await, "full\r\n");
        refused.push(client);
    }
    let counts = server.counts();
    assert_eq!(
        (counts.closed(CloseReason::RefusedAtOnce), counts.closed(CloseReason::Refused)),
        (3, 0)
    );
    assert_balanced(&counts);
    drop(refused);
    server.until("the refusals are over", |counts| counts.active() == 1).await;
    drop(first);
    server.until("the first is gone", |counts| counts.active() == 0).await;
    let expected =
        [(CloseReason::Done, 1), (CloseReason::Refused, 256), (CloseReason::RefusedAtOnce, 3)];
    assert_reasons(&server.end().await, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_balance_at_every_moment_of_a_storm() {
    let server = on_tcp(Server::new(), obedient(&Gauge::default())).await;
    let over = Arc::new(AtomicBool::new(false));
    let sampler = {
        let (handle, over) = (server.handle().clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut last = 0;
            while !over.load(Ordering::SeqCst) {
                let counts = handle.counts();
                assert_balanced(&counts);
                assert!(counts.accepted() >= last, "it never goes back");
                last = counts.accepted();
                std::thread::yield_now();
            }
        })
    };
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for task in 0..8_usize {
        let handle = server.handle().clone();
        clients.spawn(async move {
            for i in 0..125_usize {
                let mut client = TcpStream::connect(addr).await.unwrap();
                assert_balanced(&handle.counts());
                ask(&mut client, "hello\n", "hello\n").await;
                assert!(handle.counts().active() > 0, "this one is open");
                match (task + i) % 5 {
                    0 => client.write_all(b"fail\n").await.unwrap(),
                    1 => client.write_all(b"fall\n").await.unwrap(),
                    2 => client.write_all(b"abort\n").await.unwrap(),
                    3 => {
                        reset(client);
                        continue;
                    }
                    _ => client.shutdown().await.unwrap(),
                }
                // Ends or breaks; either way it ends.
                drop(client.read_to_end(&mut Vec::new()).await);
            }
        });
    }
    clients.join_all().await;
    server.until("all are gone", |counts| counts.active() == 0).await;
    over.store(true, Ordering::SeqCst);
    sampler.join().expect("they balanced");
    let expected = [
        (CloseReason::Done, 200),
        (CloseReason::PeerReset, 200),
        (CloseReason::Aborted, 200),
        (CloseReason::ServiceError, 200),
        (CloseReason::Panic, 200),
    ];
    assert_reasons(&server.end().await, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_while_the_server_drains_are_counted_once() {
    let go = Arc::new(Notify::new());
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut clients = JoinSet::new();
    for i in 0..300 {
        let (go, connector) = (Arc::clone(&go), connector.clone());
        let (told, ready) = oneshot::channel();
        clients.spawn(async move {
            let mut client = connector.connect().await.unwrap();
            ask(&mut client, "a\r\n", "A\r\n").await;
            let go = go.notified();
            told.send(()).unwrap();
            go.await;
            match i % 3 {
                0 => drop(client),
                1 => client.abort(),
                _ => drop(client.read_to_end(&mut Vec::new()).await),
            }
        });
        ready.await.unwrap();
    }
    until("all are connected", || server.counts().active() == 300).await;
    // The last of them may not wait yet when it has said so; notified twice, each one wakes.
    go.notify_waiters();
    server.handle().drain(LONG);
    until("all have heard", || {
        go.notify_waiters();
        server.counts().active() == 0
    })
    .await;
    clients.join_all().await;
    assert_eq!(server.over().await.accepted(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_last_answer_that_is_never_read_is_counted_as_a_timeout() {
    // It fits below the high-water mark: what waits is the close and not the next call.
    let bye = reply_fn(|_: Bytes| Reply::one(vec![b'x'; 10_000]).then_close());
    let service = framed(Lines::crlf().unlimited(), bye).write_stall(Duration::from_secs(7));
    let (endpoint, connector) = memory::endpoint_with_capacity(16);
    let server = Running::start(Server::new().listen(endpoint).serve(service)).await;
    let mut client = connector.connect().await.unwrap();
    let start = tokio::time::Instant::now();
    client.write_all(b"quit\r\n").await.unwrap();
    server.until("it is given up", |counts| counts.closed_in_all() == 1).await;
    assert!(start.elapsed() >= Duration::from_secs(7), "{:?}", start.elapsed());
    drop(client);
    assert_reasons(&server.end().await, &[(CloseReason::Timeout, 1)]);
}
