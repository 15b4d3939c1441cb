//! The layers alone, and under a server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;

use bytes::Bytes;
use ropewalk::connection::Stream;
use ropewalk::testing::{check_connection_layer, check_layer};
use ropewalk::{CloseReason, Connection, Lines, Peer, Server, framed, memory, reply_fn};
use ropewalk_example_layers::{LocalLayer, LoginLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tower_layer::Layer;
use tower_service::Service;

#[test]
fn the_layers_pass_the_checks() {
    check_layer(|| LoginLayer::new("secret"), ["login secret", "get"].map(Bytes::from)).run();
    check_connection_layer(|| LocalLayer::new("go away\r\n"));
}

/// The bytes that a client receives when it sends this and closes its side.
async fn ask(connector: &memory::Connector, text: &str) -> String {
    let mut stream = connector.connect().await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    answers
}

#[tokio::test]
async fn each_connection_has_to_log_in_and_all_are_counted_together() {
    let login = LoginLayer::new("secret");
    let leaf = framed(Lines::lf(), login.layer(reply_fn(|line: Bytes| line)));
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new().listen(endpoint).layer(LocalLayer::new("")).serve(leaf);
    let handle = server.handle();
    let server = tokio::spawn(server);
    assert_eq!(ask(&connector, "get\nlogin secret\nget\n").await, "denied\nwelcome\nget\n");
    assert_eq!(ask(&connector, "get\n").await, "denied\n");
    assert_eq!(login.denied(), 2);
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_machine_is_refused_with_a_text() {
    let layer = LocalLayer::new("go away\r\n");
    let mut service = layer.layer(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let (mut peer, stream) = duplex(64);
    let from: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let connection = Connection::new(Stream::from_io(stream), Peer::new(from));
    let closing = connection.closing();
    let served = tokio::spawn(service.call(connection));
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    drop(peer);
    served.await.unwrap().unwrap();
    assert_eq!((text.as_str(), closing.reason()), ("go away\r\n", Some(CloseReason::Refused)));
    assert_eq!(layer.refused(), 1);
}
