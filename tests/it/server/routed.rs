//! Routes whose conditions and services fail, and connections that wait for one of their services.

use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::leaf::route;
use ropewalk::memory::{self, Connector, MemoryStream};
use ropewalk::{
    Bytes, CloseReason, Connection, ConnectionInfo, ConnectionLimitLayer, ConnectionService, Error,
    Lines, Result, Server, framed, reply_fn,
};
use tokio::io::AsyncWriteExt;
use tower::{Layer, Service};

use crate::harness::{Running, ask, assert_reasons, assert_reset, on_memory, on_tcp, rest, settle};

fn echo() -> impl ConnectionService<Error = Error> + Clone {
    framed(Lines::lf(), reply_fn(|line: Bytes| line)).on_drain(|| Bytes::from("goodbye"))
}

#[tokio::test]
async fn a_condition_that_panics_ends_its_own_connection_only() {
    let mut n = 0;
    let second_panics = move |_: &ConnectionInfo| {
        n += 1;
        assert_ne!(n, 2, "as told");
        false
    };
    let server = on_tcp(Server::new(), route(echo()).when(second_panics, echo())).await;
    let mut first = server.connect().await;
    ask(&mut first, "a\n", "a\n").await;
    let mut second = server.connect().await;
    assert_eq!(rest(&mut second).await, "");
    let mut third = server.connect().await;
    ask(&mut third, "c\n", "c\n").await;
    ask(&mut first, "a\n", "a\n").await;
    drop((first, third));
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Panic, 1)]);
}

/// Fails before it is called.
#[derive(Clone)]
struct Fails;

impl Service<Connection> for Fails {
    type Response = ();
    type Error = Error;
    type Future = std::future::Ready<Result>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Err(Error::other("as told")))
    }

    fn call(&mut self, _: Connection) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_before_it_is_ready_ends_the_connections_of_its_route_only() {
    let (endpoint, connector) = memory::endpoint();
    let mut n = 0;
    let first = move |_: &ConnectionInfo| {
        n += 1;
        n == 1
    };
    let server = Server::new().listen(endpoint).serve(route(echo()).when(first, Fails));
    let server = Running::start(server).await;
    assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "");
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "a\n").await;
    drop(client);
    settle().await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::ServiceError, 1)]);
}

/// A server whose route has room for one connection; that one, and another that waits for it.
async fn waiting() -> (Running, Connector, MemoryStream, MemoryStream) {
    let one = ConnectionLimitLayer::new(1).layer(echo());
    let (server, connector) = on_memory(Server::new(), route(one)).await;
    let mut first = connector.connect().await.unwrap();
    ask(&mut first, "a\n", "a\n").await;
    let mut second = connector.connect().await.unwrap();
    second.write_all(b"b\n").await.unwrap();
    settle().await;
    assert_eq!(server.counts().active(), 2);
    (server, connector, first, second)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_its_service_can_be_aborted() {
    let (server, connector, mut first, mut second) = waiting().await;
    let connections = server.handle().connections();
    let newest = connections.iter().max_by_key(|connection| connection.id()).unwrap();
    newest.abort();
    assert_reset(&mut second).await;
    // It has left no place in a queue.
    ask(&mut first, "a\n", "a\n").await;
    drop(first);
    let mut third = connector.connect().await.unwrap();
    ask(&mut third, "c\n", "c\n").await;
    drop(third);
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Aborted, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_serves_one_that_waits_for_its_service() {
    let (server, _, mut first, mut second) = waiting().await;
    server.handle().drain(Duration::from_secs(60));
    assert_eq!(rest(&mut first).await, "goodbye\n");
    assert_eq!(rest(&mut second).await, "b\ngoodbye\n");
    drop((first, second));
    assert_eq!(server.over().await.accepted(), 2);
}
