//! A drain tells all connections, and does not wait for idle ones.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::LINGER;
use ropewalk::memory::{self};
use ropewalk::{CloseReason, Handle, Lines, Result, Server, Session, framed, service_fn, session};
use tokio::io::AsyncWriteExt;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};

use crate::harness::{
    LONG, Running, ask, assert_reasons, expect, on_memory, rest, settle, shout, shouter,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn idle_connections_close_at_once() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut clients = Vec::new();
    for i in 0..10 {
        let mut client = connector.connect().await.unwrap();
        // Some have never said a word.
        if i % 2 == 0 {
            ask(&mut client, "a\n", "A\n").await;
        }
        clients.push(client);
    }
    settle().await;
    let start = Instant::now();
    server.handle().drain(LONG);
    for client in &mut clients {
        assert_eq!(rest(client).await, "");
    }
    drop(clients);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 10)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hears_the_end_and_does_not_close_is_waited_for_no_longer_than_the_linger() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let start = Instant::now();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut client).await, "");
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    assert_eq!(start.elapsed(), LINGER);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn two_thousand_idle_connections_drain_at_once() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut clients = Vec::new();
    for _ in 0..2000 {
        clients.push(connector.connect().await.unwrap());
    }
    server.until("all are accepted", |counts| counts.active() == 2000).await;
    let start = Instant::now();
    server.handle().drain(SECOND);
    for client in &mut clients {
        assert_eq!(rest(client).await, "");
    }
    drop(clients);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2000)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_tasks_may_drain_at_once() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let handle = server.handle().clone();
        tasks.spawn(async move {
            handle.drain(LONG);
            handle.ended().await;
        });
    }
    assert_eq!(rest(&mut client).await, "");
    drop(client);
    timeout(SECOND, tasks.join_all()).await.unwrap();
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_server_told_to_drain_before_it_serves_serves_its_backlog_and_ends() {
    let (endpoint, connector) = memory::endpoint();
    let mut early = connector.connect().await.unwrap();
    early.write_all(b"early\n").await.unwrap();
    let serve = Server::new().listen(endpoint).serve(shouter());
    serve.handle().drain(LONG);
    let server = Running::start(serve).await;
    assert_eq!(rest(&mut early).await, "EARLY\n");
    drop(early);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_drain_its_own_server() {
    let handle = Arc::new(OnceLock::<Handle>::new());
    let ours = Arc::clone(&handle);
    let service = service_fn(move |line: Bytes| {
        let handle = Arc::clone(&ours);
        async move {
            if line == "shutdown" {
                handle.get().unwrap().drain(LONG);
                yield_now().await;
            }
            Ok(shout(&line))
        }
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    handle.set(server.handle().clone()).unwrap();
    let mut other = connector.connect().await.unwrap();
    ask(&mut other, "a\n", "A\n").await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"b\nshutdown\nc\n").await.unwrap();
    let start = Instant::now();
    assert_eq!(
        rest(&mut client).await,
        "B\nSHUTDOWN\nC\n",
        "its answer arrives, and what had come behind it"
    );
    assert_eq!(rest(&mut other).await, "");
    drop((client, other));
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_session_sees_that_it_is_draining_and_says_goodbye() {
    async fn chat(mut s: Session<Lines>) -> Result {
        assert!(!s.is_draining());
        s.feed("hello")?;
        while let Some(line) = s.next().await? {
            s.feed(shout(&line))?;
        }
        s.feed(if s.is_draining() { "the server goes down" } else { "you go" })
    }
    let (server, connector) = on_memory(Server::new(), session(Lines::lf(), chat)).await;
    let mut leaves = connector.connect().await.unwrap();
    ask(&mut leaves, "a\n", "hello\nA\n").await;
    leaves.shutdown().await.unwrap();
    assert_eq!(rest(&mut leaves).await, "you go\n");
    drop(leaves);

    let mut idle = connector.connect().await.unwrap();
    expect(&mut idle, "hello\n").await;
    let mut talks = connector.connect().await.unwrap();
    expect(&mut talks, "hello\n").await;
    talks.write_all(b"one\ntwo\nhal").await.unwrap();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut idle).await, "the server goes down\n");
    assert_eq!(rest(&mut talks).await, "ONE\nTWO\nthe server goes down\n");
    drop((idle, talks));
    assert_reasons(&server.over().await, &[(CloseReason::Done, 1), (CloseReason::Drained, 2)]);
}
