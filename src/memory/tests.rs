//! Tests that a memory connection behaves as a TCP socket does, under paused time.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::time::Duration;

use ropewalk_middleware::{Addr, Connection, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Connector, MemoryStream, endpoint, endpoint_with_capacity};
use crate::listener::Listener;

async fn bound(capacity: usize) -> (Box<dyn Listener>, Connector) {
    let (endpoint, connector) = endpoint_with_capacity(capacity);
    (endpoint.bind().await.unwrap(), connector)
}

async fn accept(listener: &mut dyn Listener) -> Connection {
    let (stream, peer) = poll_fn(|cx| listener.poll_accept(cx)).await;
    Connection::new(stream, peer)
}

async fn connected(capacity: usize) -> (MemoryStream, Connection) {
    let (mut listener, connector) = bound(capacity).await;
    let client = connector.connect().await.unwrap();
    (client, accept(&mut *listener).await)
}

/// Whether a future is still waiting when everything else has settled.
async fn waits<T>(future: impl Future<Output = T>) -> bool {
    timeout(Duration::from_secs(60), future).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways() {
    let (mut client, mut server) = connected(1024).await;
    assert_eq!(server.peer().addr(), &Addr::Memory);
    assert_eq!(server.local(), Addr::Memory);
    let mut buf = [0; 4];
    client.write_all(b"ping").await.unwrap();
    server.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"ping");
    server.write_all(b"pong").await.unwrap();
    client.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"pong");
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_room_and_a_large_one_arrives_whole() {
    let (mut client, mut server) = connected(8).await;
    client.write_all(b"12345678").await.unwrap();
    assert!(waits(client.write(b"9")).await);
    let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert!(got.starts_with(b"12345678") && got[8..] == expected);
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_side_can_end_its_own_direction_and_go_on_with_the_other() {
    let (mut client, mut server) = connected(64).await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "lastanswer");
}

#[tokio::test(start_paused = true)]
async fn an_abort_loses_bytes_in_flight_and_resets_the_peer() {
    let (mut client, mut server) = connected(64).await;
    server.write_all(b"lost").await.unwrap();
    server.abort();
    assert_eq!(client.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (mut client, mut server) = connected(64).await;
    client.write_all(b"lost").await.unwrap();
    client.abort();
    assert_eq!(server.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(server.closing().is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_reset_wakes_a_peer_that_reads_and_one_that_writes() {
    for full in [false, true] {
        let (mut client, server) = connected(1).await;
        let waiting = tokio::spawn(async move {
            if full { client.write_all(b"xx").await } else { client.read_u8().await.map(drop) }
        });
        tokio::task::yield_now().await;
        server.abort();
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_with_input_unread_resets_the_peer_and_takes_the_answer_with_it() {
    let (mut client, mut server) = connected(64).await;
    client.write_all(b"unread").await.unwrap();
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(client.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_lingering_close_saves_the_answer() {
    let (mut client, mut server) = connected(64).await;
    client.write_all(b"unread").await.unwrap();
    server.write_all(b"answer").await.unwrap();
    let closing = tokio::spawn(server.close());
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    drop(client);
    closing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clean_drop_leaves_the_written_bytes() {
    let (mut client, mut server) = connected(64).await;
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(client.write(b"").await.unwrap(), 0);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
}

#[tokio::test(start_paused = true)]
async fn a_write_after_a_clean_drop_succeeds_and_resets_the_connection_and_the_answer_is_lost() {
    let (mut client, mut server) = connected(64).await;
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(client.write(b"x").await.unwrap(), 1);
    assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    for _ in 0..2 {
        assert_eq!(client.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_ended_its_direction_can_not_write_with_or_without_a_reader() {
    let (mut client, mut server) = connected(64).await;
    server.write_all(b"answer").await.unwrap();
    client.shutdown().await.unwrap();
    drop(server);
    assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
}

#[tokio::test(start_paused = true)]
async fn connects_wait_while_the_backlog_is_full() {
    let (mut listener, connector) = bound(1).await;
    let mut clients: Vec<_> = (0..1024).map(|_| connector.try_connect().unwrap()).collect();
    assert_eq!(connector.try_connect().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(waits(connector.connect()).await);
    accept(&mut *listener).await;
    clients.push(connector.clone().connect().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn connections_made_before_the_bind_wait_for_it() {
    let (endpoint, connector) = endpoint();
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"early").await.unwrap();
    let mut listener = endpoint.bind().await.unwrap();
    let mut buf = [0; 5];
    accept(&mut *listener).await.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"early");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_listener_refuses_connections_and_resets_the_waiting_ones() {
    let (listener, connector) = bound(1).await;
    let mut queued = connector.connect().await.unwrap();
    drop(listener);
    assert_eq!(queued.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(connector.connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(connector.try_connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);

    let (endpoint, connector) = endpoint();
    drop(endpoint);
    assert_eq!(connector.connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_listener_without_connectors_waits_and_does_not_spin() {
    let (mut listener, connector) = bound(1).await;
    drop(connector);
    let start = Instant::now();
    assert!(waits(accept(&mut *listener)).await);
    assert_eq!(start.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn two_ends_that_never_wait_let_other_tasks_run() {
    let (mut client, mut server) = connected(64).await;
    let other = tokio::spawn(async {});
    let mut rounds = 0;
    while !other.is_finished() {
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        rounds += 1;
        assert!(rounds < 10_000, "the other task never had its turn");
    }
}

#[tokio::test(start_paused = true)]
async fn a_memory_stream_is_boxed_in_its_connection() {
    let (mut listener, connector) = bound(1).await;
    let _client = connector.connect().await.unwrap();
    let (stream, _) = poll_fn(|cx| listener.poll_accept(cx)).await;
    assert!(matches!(stream, Stream::Boxed(_)));
}
