//! Rates that connections share, and refusals under overload, under a server.

use std::time::Duration;

use ropewalk::layer::key_rate::KeyRates;
use ropewalk::layer::{KeyRateLayer, OverloadLayer, RateExceeded};
use ropewalk::{Bytes, CloseReason, Error, Lines, Reply, Server, framed, reply_fn};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tower::ServiceBuilder;

use crate::harness::{ask, assert_reasons, expect, on_memory, on_tcp, rest, settle};

const SECOND: Duration = Duration::from_secs(1);

fn echo(line: Bytes) -> Bytes {
    line
}

/// The answer of this protocol to a frame over the rate.
fn slow_down(error: &Error) -> Bytes {
    match error.downcast_ref::<RateExceeded>() {
        Some(exceeded) => format!("slow down for {} ms", exceeded.retry_after().as_millis()).into(),
        None => Bytes::from("error"),
    }
}

#[tokio::test(start_paused = true)]
async fn connections_over_a_shared_rate_wait_and_lose_no_frame() {
    let shared = ServiceBuilder::new().layer(KeyRateLayer::new(10, SECOND)).service(reply_fn(echo));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), shared)).await;
    let start = Instant::now();
    let client = |n: usize| {
        let connector = connector.clone();
        tokio::spawn(async move {
            let mut client = connector.connect().await.unwrap();
            let lines: String = (0..5).map(|line| format!("{n} {line}\n")).collect();
            client.write_all(lines.as_bytes()).await.unwrap();
            expect(&mut client, &lines).await;
        })
    };
    let clients: Vec<_> = (0..20).map(client).collect();
    for client in clients {
        client.await.unwrap();
    }
    // 100 frames, 10 of them at once.
    assert!(
        (9 * SECOND..=9 * SECOND + SECOND / 10).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    settle().await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 20)]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_its_half_while_it_waits_still_has_its_answers() {
    let shared = ServiceBuilder::new().layer(KeyRateLayer::new(1, SECOND)).service(reply_fn(echo));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), shared)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"1\n2\n3\n").await.unwrap();
    client.shutdown().await.unwrap();
    let start = Instant::now();
    assert_eq!(rest(&mut client).await, "1\n2\n3\n");
    assert!(
        (2 * SECOND..=2 * SECOND + SECOND / 100).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    // One that is gone takes no token with it.
    let mut gone = connector.connect().await.unwrap();
    gone.write_all(b"1\n2\n3\n4\n").await.unwrap();
    expect(&mut gone, "1\n").await;
    drop(gone);
    settle().await;
    let mut next = connector.connect().await.unwrap();
    let start = Instant::now();
    ask(&mut next, "5\n", "5\n").await;
    assert!(start.elapsed() <= 2 * SECOND, "{:?}", start.elapsed());
    drop(next);
    settle().await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_user_over_the_rate_is_answered_and_others_are_served() {
    let users = KeyRates::new(2, SECOND);
    let by_user = users.by(|line: &Bytes| line.first().copied());
    let service = ServiceBuilder::new().layer(by_user).service(reply_fn(echo));
    let (server, connector) =
        on_memory(Server::new(), framed(Lines::lf(), service).on_error(slow_down)).await;
    let (mut one, mut two) =
        (connector.connect().await.unwrap(), connector.connect().await.unwrap());
    ask(&mut one, "ann 1\n", "ann 1\n").await;
    ask(&mut two, "ann 2\n", "ann 2\n").await;
    ask(&mut one, "ann 3\nbob 1\n", "slow down for 500 ms\nbob 1\n").await;
    tokio::time::advance(SECOND / 2).await;
    ask(&mut two, "ann 4\nann 5\n", "ann 4\nslow down for 500 ms\n").await;
    drop((one, two));
    settle().await;
    assert_eq!((users.refused(), users.keys()), (2, 2));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2)]);
}

/// Over a socket: the key is the address of a connection.
#[tokio::test]
async fn all_connections_of_one_address_share_its_rate() {
    let addresses = KeyRates::new(2, 3600 * SECOND);
    let service = framed(Lines::lf(), reply_fn(echo))
        .layer_with(move |info: &ropewalk::ConnectionInfo| {
            addresses.of(info.peer().host()).refuse()
        })
        .on_error(|_: &Error| Bytes::from("slow down"));
    let server = on_tcp(Server::new(), service).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    ask(&mut one, "1\n", "1\n").await;
    ask(&mut two, "2\n", "2\n").await;
    ask(&mut one, "3\n", "slow down\n").await;
    ask(&mut two, "4\n", "slow down\n").await;
    drop((one, two));
    server.until("both have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2)]);
}

#[tokio::test(start_paused = true)]
async fn answers_over_the_rate_wait_and_each_connection_may_have_a_rate_of_its_own() {
    let list = |line: Bytes| Reply::many((0..line.len()).map(|n| n.to_string()));
    let service = framed(Lines::lf(), reply_fn(list))
        .layer_with(|_: &ropewalk::ConnectionInfo| KeyRateLayer::new(10, SECOND).answers());
    let (server, connector) = on_memory(Server::new(), service).await;
    let start = Instant::now();
    let client = |_| {
        let connector = connector.clone();
        tokio::spawn(async move {
            let mut client = connector.connect().await.unwrap();
            client.write_all(b"four\n\nsixsix\ntenbytes..\n").await.unwrap();
            client.shutdown().await.unwrap();
            rest(&mut client).await
        })
    };
    for client in (0..10).map(client).collect::<Vec<_>>() {
        assert_eq!(client.await.unwrap().lines().count(), 20);
    }
    // Twenty frames each, ten of them at once.
    let elapsed = start.elapsed();
    assert!((SECOND..=SECOND + SECOND / 100).contains(&elapsed), "{elapsed:?}");
    settle().await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 10)]);
}

/// Over a socket: a peer leaves while its answer waits, and another one has its turn.
#[tokio::test]
async fn a_peer_that_leaves_while_its_answer_waits_takes_no_token_with_it() {
    let shared = KeyRateLayer::new(20, SECOND).burst(1);
    let service = ServiceBuilder::new().layer(shared.answers()).service(reply_fn(echo));
    let server = on_tcp(Server::new(), framed(Lines::lf(), service).concurrent(100)).await;
    let (mut leaves, mut stays) = (server.connect().await, server.connect().await);
    ask(&mut leaves, "1\n", "1\n").await;
    let start = std::time::Instant::now();
    leaves.write_all(&b"x\n".repeat(100)).await.unwrap();
    expect(&mut leaves, "x\n").await;
    leaves.set_zero_linger().unwrap();
    drop(leaves);
    server.until("it has gone", |counts| counts.active() == 1).await;
    ask(&mut stays, "2\n3\n", "2\n3\n").await;
    // Not after the five seconds that a hundred tokens take, and not at once.
    let elapsed = start.elapsed();
    assert!(elapsed >= SECOND / 10 && elapsed < 4 * SECOND, "{elapsed:?}");
    drop(stays);
    server.until("both have gone", |counts| counts.active() == 0).await;
    server.end().await;
}

/// Over a socket: frames over a shared rate wait.
#[tokio::test]
async fn frames_over_a_shared_rate_wait_on_their_socket() {
    let shared = KeyRateLayer::new(50, SECOND).burst(1);
    let service = ServiceBuilder::new().layer(shared).service(reply_fn(echo));
    let server = on_tcp(Server::new(), framed(Lines::lf(), service)).await;
    let start = std::time::Instant::now();
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    one.write_all(b"1\n2\n3\n").await.unwrap();
    ask(&mut two, "4\n5\n6\n", "4\n5\n6\n").await;
    expect(&mut one, "1\n2\n3\n").await;
    assert!(start.elapsed() >= SECOND / 10, "{:?}", start.elapsed());
    drop((one, two));
    server.until("both have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2)]);
}

/// Over a socket: one connection takes so much memory that others are refused, until it is gone.
#[tokio::test]
async fn while_memory_is_short_newcomers_are_refused_and_open_connections_are_served() {
    const MIB: usize = 1024 * 1024;
    let overload = OverloadLayer::new().without_lag().memory(10, 5);
    let server =
        Server::new().memory_budget(8 * MIB).layer(overload.clone().refuse_with("later\n"));
    let server = on_tcp(server, framed(Lines::lf().max(4 * MIB), reply_fn(echo))).await;
    let (mut open, mut large) = (server.connect().await, server.connect().await);
    ask(&mut open, "a\n", "a\n").await;
    large.write_all(&vec![b'x'; MIB]).await.unwrap();
    let memory = || server.handle().memory().in_use();
    crate::harness::until("the line has arrived", || memory() >= MIB).await;
    assert_eq!(rest(&mut server.connect().await).await, "later\n");
    ask(&mut open, "b\n", "b\n").await;
    drop(large);
    crate::harness::until("its memory is free", || memory() < 8 * MIB / 20).await;
    let mut next = server.connect().await;
    ask(&mut next, "c\n", "c\n").await;
    assert_eq!((overload.refused(), overload.shortages(), overload.is_overloaded()), (1, 1, false));
    drop((open, next));
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_eq!(server.end().await.closed(CloseReason::Overload), 1);
}
