//! A cap on the connections of each peer, under a server and with real addresses.

use std::net::SocketAddr;

use ropewalk::{CloseReason, PeerLimitLayer, Server};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Running, ask, assert_reasons, on_tcp, rest, shouter};

/// A connection from this address of the loopback.
async fn from(ip: [u8; 4], server: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    socket.connect(server.tcp_addr(0)).await.unwrap()
}

/// A connection of this client by a proxy, which is the same for all.
async fn behind_a_proxy(client: &str, server: &Running) -> TcpStream {
    let mut stream = from([127, 0, 0, 1], server).await;
    stream
        .write_all(format!("PROXY TCP4 {client} 192.0.2.1 1024 25\r\n").as_bytes())
        .await
        .unwrap();
    stream
}

// Elsewhere the loopback has one address.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_peer_can_not_take_the_place_of_another() {
    let limit = PeerLimitLayer::new(2).refuse_with("too many\n");
    let server = on_tcp(Server::new().layer(limit.clone()), shouter()).await;
    let mut first = Vec::new();
    for _ in 0..2 {
        let mut client = from([127, 0, 0, 2], &server).await;
        ask(&mut client, "a\n", "A\n").await;
        first.push(client);
    }
    for _ in 0..3 {
        let mut refused = from([127, 0, 0, 2], &server).await;
        assert_eq!(rest(&mut refused).await, "too many\n");
    }
    let mut other = from([127, 0, 0, 3], &server).await;
    ask(&mut other, "b\n", "B\n").await;
    // One of its own goes, and it may have another.
    drop(first.pop());
    server.until("one has gone", |_| limit.active([127, 0, 0, 2].into()) == 1).await;
    let mut again = from([127, 0, 0, 2], &server).await;
    ask(&mut again, "c\n", "C\n").await;
    drop((first, other, again));
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_eq!(limit.peers(), 0);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 4), (CloseReason::Refused, 3)]);
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_its_own() {
    let limit = PeerLimitLayer::new(1).refuse_with("too many\n");
    let server = Server::new().listen("proxy+tcp:127.0.0.1:0?trust=127.0.0.1").layer(limit.clone());
    let server = Running::start(server.serve(shouter())).await;
    let mut first = behind_a_proxy("192.0.2.7", &server).await;
    ask(&mut first, "a\n", "A\n").await;
    let mut refused = behind_a_proxy("192.0.2.7", &server).await;
    assert_eq!(rest(&mut refused).await, "too many\n");
    let mut other = behind_a_proxy("192.0.2.8", &server).await;
    ask(&mut other, "b\n", "B\n").await;
    assert_eq!((limit.active([192, 0, 2, 7].into()), limit.active([127, 0, 0, 1].into())), (1, 0));
    drop((first, other));
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Refused, 1)]);
}
