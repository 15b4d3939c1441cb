//! Which peers may connect, and how fast, under a server and with real addresses.
#![cfg(target_os = "linux")] // Elsewhere the loopback has one address.

use std::net::SocketAddr;
use std::time::Duration;

use ropewalk::layer::accept_rate::{AcceptRateLayer, Rate};
use ropewalk::layer::access::{AccessLayer, AccessRules};
use ropewalk::{CloseReason, Server};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Running, ask, assert_reasons, on_tcp, rest, shouter};

/// A connection from this address of the loopback.
async fn from(ip: [u8; 4], server: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    socket.connect(server.tcp_addr(0)).await.unwrap()
}

#[tokio::test]
async fn a_denied_network_is_refused_until_the_rules_are_replaced() {
    let access =
        AccessLayer::new("deny 127.0.0.2/31\nallow all".parse().unwrap()).refuse_with("not you\n");
    let server = on_tcp(Server::new().layer(access.clone()), shouter()).await;
    for host in [2, 3] {
        let mut denied = from([127, 0, 0, host], &server).await;
        assert_eq!(rest(&mut denied).await, "not you\n");
    }
    let mut allowed = from([127, 0, 0, 4], &server).await;
    ask(&mut allowed, "a\n", "A\n").await;

    access.replace(AccessRules::allow_all());
    let mut late = from([127, 0, 0, 2], &server).await;
    ask(&mut late, "b\n", "B\n").await;
    drop((allowed, late));
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::AccessDenied, 2)]);
}

#[tokio::test]
async fn behind_a_proxy_the_client_is_judged_and_not_the_proxy() {
    let access = AccessLayer::new("deny 127.0.0.0/8\nallow 192.0.2.1\ndeny all".parse().unwrap());
    let server = Server::new().listen("proxy+tcp:127.0.0.1:0?trust=127.0.0.1").layer(access);
    let server = Running::start(server.serve(shouter())).await;
    let mut allowed = from([127, 0, 0, 1], &server).await;
    allowed.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.9 1024 25\r\n").await.unwrap();
    ask(&mut allowed, "a\n", "A\n").await;
    let mut denied = from([127, 0, 0, 1], &server).await;
    denied.write_all(b"PROXY TCP4 192.0.2.2 192.0.2.9 1024 25\r\n").await.unwrap();
    assert_eq!(rest(&mut denied).await, "");
    drop(allowed);
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::AccessDenied, 1)]);
}

#[tokio::test]
async fn a_peer_that_connects_too_fast_is_refused_and_its_neighbour_is_not() {
    // So slow that no second token comes during the test.
    let rate = AcceptRateLayer::new().per_peer(Rate::new(1, Duration::from_secs(3600)).burst(3));
    let server = on_tcp(Server::new().layer(rate.refuse_with("slow down\n")), shouter()).await;
    for n in 0..5 {
        let mut client = from([127, 0, 0, 2], &server).await;
        if n < 3 {
            ask(&mut client, "a\n", "A\n").await;
        } else {
            assert_eq!(rest(&mut client).await, "slow down\n");
        }
    }
    let mut other = from([127, 0, 0, 3], &server).await;
    ask(&mut other, "b\n", "B\n").await;
    drop(other);
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 4), (CloseReason::AcceptRate, 2)]);
}
