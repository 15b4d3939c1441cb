//! The cap on connections, under a real server: exact, polite, and every place comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::LINGER;
use ropewalk::layer::limit::MAX_REFUSALS;
use ropewalk::{
    CloseReason, ConnectionLimitLayer, Lines, Result, Server, Session, framed, reply_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{
    Gauge, Hold, LONG, ask, assert_reasons, expect, obedient, on_memory, on_tcp, reset, rest,
    settle, until,
};

const TEXT: &str = "Too many connections, try later\r\n";

#[tokio::test]
async fn a_hundred_are_served_and_the_next_one_is_told_so() {
    let hold = Hold::default();
    let gauge = hold.0.clone();
    let limit = ConnectionLimitLayer::new(100).refuse_with(TEXT);
    let server = on_tcp(Server::new().layer(limit.clone()), hold).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut client = server.connect().await;
        ask(&mut client, "hello", "hello").await;
        held.push(client);
    }
    assert_eq!((gauge.now(), limit.available()), (100, 0));

    let mut refused = server.connect().await;
    assert_eq!(rest(&mut refused).await, TEXT, "the text, then an end");
    drop(refused);
    // Whatever it has sent already: unread bytes must not turn the end into a reset.
    let mut eager = server.connect().await;
    eager.write_all(&vec![b'x'; 100_000]).await.unwrap();
    assert_eq!(rest(&mut eager).await, TEXT);
    eager.write_all(b"and on").await.ok();
    drop(eager);
    server.until("they are gone", |counts| counts.active() == 100).await;
    assert_eq!((gauge.now(), gauge.ever()), (100, 100));

    // One leaves, one is served.
    drop(held.pop());
    until("its place is free", || limit.available() == 1).await;
    let mut next = server.connect().await;
    ask(&mut next, "hello", "hello").await;
    let mut late = server.connect().await;
    assert_eq!(rest(&mut late).await, TEXT);
    for client in &mut held {
        ask(client, "still", "still").await;
    }
    drop((held, next, late));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_eq!((gauge.most(), gauge.ever(), limit.active()), (100, 101, 0));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 101), (CloseReason::Refused, 3)]);
}

#[tokio::test]
async fn a_hundred_eager_peers_all_hear_why() {
    let limit = ConnectionLimitLayer::new(0).refuse_with(TEXT);
    let server = on_tcp(Server::new().layer(limit), Hold::default()).await;
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(async move {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.write_all(&vec![b'x'; 100_000]).await.unwrap();
            assert_eq!(rest(&mut client).await, TEXT);
        });
    }
    clients.join_all().await;
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Refused, 100)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_never_sees_more_than_the_cap_inside() {
    const CAP: usize = 20;
    let gauge = Gauge::default();
    let limit = ConnectionLimitLayer::new(CAP).refuse_with("full\n");
    let server = on_tcp(Server::new().layer(limit.clone()), obedient(&gauge)).await;
    let addr = server.tcp_addr(0);
    let served = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let served = Arc::clone(&served);
        clients.spawn(async move {
            for _ in 0..25 {
                let mut client = TcpStream::connect(addr).await.unwrap();
                client.write_all(b"hello\n").await.unwrap();
                client.shutdown().await.unwrap();
                match &*rest(&mut client).await {
                    "hello\n" => served.fetch_add(1, Ordering::SeqCst),
                    "full\n" => 0,
                    other => panic!("{other:?}"),
                };
            }
        });
    }
    clients.join_all().await;
    server.until("all are gone", |counts| counts.active() == 0).await;
    let served = served.load(Ordering::SeqCst);
    assert!(gauge.most() <= CAP, "{}", gauge.most());
    assert_eq!((gauge.ever() as u64, limit.available()), (served, CAP));
    let counts = server.end().await;
    assert_eq!((counts.accepted(), counts.closed(CloseReason::Done)), (1000, served));
    assert_eq!(
        counts.closed(CloseReason::Refused),
        1000 - served,
        "40 clients are never too many to be told"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_cap_no_storm_gets_anybody_in() {
    const CAP: usize = 100;
    let hold = Hold::default();
    let gauge = hold.0.clone();
    let limit = ConnectionLimitLayer::new(CAP).refuse_with(TEXT);
    let server = on_tcp(Server::new().layer(limit.clone()), hold).await;
    let mut held = Vec::new();
    for _ in 0..CAP {
        let mut client = server.connect().await;
        ask(&mut client, "x", "x").await;
        held.push(client);
    }
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        clients.spawn(async move {
            for _ in 0..100 {
                let mut client = TcpStream::connect(addr).await.unwrap();
                assert_eq!(rest(&mut client).await, TEXT);
            }
        });
    }
    clients.join_all().await;
    assert_eq!((gauge.most(), gauge.ever(), limit.active()), (CAP, CAP, CAP));
    drop(held);
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 100), (CloseReason::Refused, 1000)]);
}

#[tokio::test]
async fn every_way_to_end_gives_the_place_back() {
    let gauge = Gauge::default();
    let limit = ConnectionLimitLayer::new(1).refuse_with("full\n");
    let server = on_tcp(Server::new().layer(limit.clone()), obedient(&gauge)).await;
    for way in ["fall\n", "fail\n", "abort\n", "reset", "half-close", "close"] {
        for _ in 0..5 {
            let mut client = server.connect().await;
            ask(&mut client, "hello\n", "hello\n").await;
            assert_eq!((gauge.now(), limit.available()), (1, 0));
            match way {
                "reset" => reset(client),
                "close" => drop(client),
                "half-close" => {
                    client.write_all(b"last words\n").await.unwrap();
                    client.shutdown().await.unwrap();
                    assert_eq!(rest(&mut client).await, "last words\n");
                }
                _ => {
                    client.write_all(way.as_bytes()).await.unwrap();
                    drop(client.read_to_end(&mut Vec::new()).await);
                    drop(client);
                }
            }
            until("the place is free", || limit.available() == 1).await;
            assert_eq!(gauge.now(), 0, "and not before the connection is gone");
        }
    }
    server.until("all are gone", |counts| counts.active() == 0).await;
    let expected = [
        (CloseReason::Done, 10),
        (CloseReason::PeerReset, 5),
        (CloseReason::Aborted, 5),
        (CloseReason::ServiceError, 5),
        (CloseReason::Panic, 5),
    ];
    assert_reasons(&server.end().await, &expected);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_until_a_session_moved_elsewhere_has_ended() {
    let limit = ConnectionLimitLayer::new(1).refuse_with("full\n");
    let moved = session(Lines::lf(), async |mut s: Session<Lines>| {
        tokio::spawn(async move {
            while let Some(line) = s.next().await? {
                s.feed(line)?;
            }
            Result::<()>::Ok(())
        });
        Ok(())
    });
    let (server, connector) = on_memory(Server::new().layer(limit.clone()), moved).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "a\n").await;
    assert_eq!(limit.available(), 0);
    assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "full\n");
    drop(client);
    until("the place is free", || limit.available() == 1).await;
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn a_connection_that_has_to_wait_stays_in_the_backlog_and_is_served_later() {
    let hold = Hold::default();
    let gauge = hold.0.clone();
    let server = on_tcp(Server::new().layer(ConnectionLimitLayer::new(2).wait()), hold).await;
    let mut clients = Vec::new();
    for i in 0..6 {
        let mut client = server.connect().await;
        client.write_all(format!("client {i}").as_bytes()).await.unwrap();
        clients.push(client);
    }
    expect(&mut clients[0], "client 0").await;
    expect(&mut clients[1], "client 1").await;
    settle().await;
    assert_eq!((server.counts().accepted(), gauge.now()), (2, 2), "the others are not accepted");
    for i in 0..6 {
        let mut client = clients.remove(0);
        if i >= 2 {
            expect(&mut client, &format!("client {i}")).await;
        }
        drop(client);
    }
    server.until("all are gone", |counts| counts.active() == 0 && counts.accepted() == 6).await;
    assert_eq!((gauge.most(), gauge.ever()), (2, 6));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_server_at_its_cap_drains_queued_connections_as_slots_become_free() {
    let limit = ConnectionLimitLayer::new(1);
    let (server, connector) =
        on_memory(Server::new().layer(limit), obedient(&Gauge::default())).await;
    let mut first = connector.connect().await.unwrap();
    ask(&mut first, "a\n", "a\n").await;
    let mut second = connector.connect().await.unwrap();
    second.write_all(b"b\n").await.unwrap();
    settle().await;
    let start = tokio::time::Instant::now();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut first).await, "");
    drop(first);
    assert_eq!(rest(&mut second).await, "b\n");
    drop(second);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn another_service_may_answer_connections_over_the_cap() {
    let busy = framed(
        Lines::lf(),
        reply_fn(|line: Bytes| ["busy: ", std::str::from_utf8(&line).unwrap()].concat()),
    );
    let gauge = Gauge::default();
    let limit = ConnectionLimitLayer::new(1).refuse_by(busy);
    let server = on_tcp(Server::new().layer(limit.clone()), obedient(&gauge)).await;
    let mut first = server.connect().await;
    ask(&mut first, "hello\n", "hello\n").await;
    let mut second = server.connect().await;
    ask(&mut second, "hello\n", "busy: hello\n").await;
    drop(first);
    until("the place is free", || limit.available() == 1).await;
    ask(&mut second, "still\n", "busy: still\n").await;
    let mut third = server.connect().await;
    ask(&mut third, "hello\n", "hello\n").await;
    assert_eq!((gauge.most(), gauge.ever()), (1, 2));
    drop((second, third));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Refused, 1)]);
}

#[tokio::test]
async fn so_many_refusals_linger_and_more_are_told_and_closed_at_once() {
    let limit = ConnectionLimitLayer::new(0).refuse_with(TEXT);
    let server = on_tcp(Server::new().layer(limit), Hold::default()).await;
    let mut clients = Vec::new();
    for _ in 0..MAX_REFUSALS + 20 {
        let mut client = server.connect().await;
        assert_eq!(rest(&mut client).await, TEXT);
        clients.push(client);
    }
    let counts = server.counts();
    // The first may have been let go by now, if this machine is slow; the books balance all the
    // same.
    assert!(counts.closed(CloseReason::RefusedAtOnce) <= 20, "{counts:?}");
    drop(clients);
    server.until("all are gone", |counts| counts.active() == 0).await;
    let counts = server.end().await;
    assert_eq!(
        counts.closed(CloseReason::Refused) + counts.closed(CloseReason::RefusedAtOnce),
        MAX_REFUSALS as u64 + 20,
        "{counts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_peer_that_does_not_leave_holds_nothing_beyond_the_linger() {
    let limit = ConnectionLimitLayer::new(0).refuse_with(TEXT);
    let (server, connector) = on_memory(Server::new().layer(limit), Hold::default()).await;
    let mut client = connector.connect().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(rest(&mut client).await, TEXT);
    timeout(LONG, server.until("it is let go", |counts| counts.active() == 0)).await.unwrap();
    assert!(
        start.elapsed() >= LINGER && start.elapsed() < LINGER + Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
    assert_reasons(&server.end().await, &[(CloseReason::Refused, 1)]);
}
