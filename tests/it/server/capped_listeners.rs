//! The cap on connections of a server with several listeners: shared, or one for each.

use ropewalk::{CloseReason, ConnectionLimitLayer, Server, memory};
use tokio::net::UnixStream;

use crate::harness::{Hold, Running, TempPath, ask, assert_reasons, rest, until};

/// A server on TCP, a Unix socket and memory, under one limit.
async fn three_listeners<P>(
    limit: ConnectionLimitLayer<P>,
    path: &TempPath,
) -> (Running, memory::Connector)
where
    ConnectionLimitLayer<P>: tower::Layer<Hold, Service: ropewalk::ConnectionService>,
{
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen(path.endpoint())
        .listen(endpoint)
        .layer(limit);
    (Running::start(server.serve(Hold::default())).await, connector)
}

#[tokio::test]
async fn the_cap_is_shared_by_all_listeners_of_a_server() {
    let path = TempPath::new();
    let limit = ConnectionLimitLayer::new(2).refuse_with("full");
    let (server, connector) = three_listeners(limit.clone(), &path).await;
    let mut tcp = server.connect().await;
    ask(&mut tcp, "one", "one").await;
    let mut unix = UnixStream::connect(path.path()).await.unwrap();
    ask(&mut unix, "two", "two").await;
    assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "full");
    assert_eq!(rest(&mut UnixStream::connect(path.path()).await.unwrap()).await, "full");
    drop(tcp);
    until("a place is free", || limit.available() == 1).await;
    let mut memory = connector.connect().await.unwrap();
    ask(&mut memory, "three", "three").await;
    assert_eq!(rest(&mut server.connect().await).await, "full");
    drop((unix, memory));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 3), (CloseReason::Refused, 3)]);
}

#[tokio::test]
async fn a_cap_per_listener_is_not_shared() {
    let path = TempPath::new();
    let limit = ConnectionLimitLayer::new(1).refuse_with("full").per_listener();
    let (server, connector) = three_listeners(limit, &path).await;
    let mut tcp = server.connect().await;
    ask(&mut tcp, "one", "one").await;
    assert_eq!(rest(&mut server.connect().await).await, "full");
    let mut unix = UnixStream::connect(path.path()).await.unwrap();
    ask(&mut unix, "two", "two").await;
    assert_eq!(rest(&mut UnixStream::connect(path.path()).await.unwrap()).await, "full");
    let mut memory = connector.connect().await.unwrap();
    ask(&mut memory, "three", "three").await;
    assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "full");
    drop((tcp, unix, memory));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 3), (CloseReason::Refused, 3)]);
}
