//! The examples `http` and `websocket`: guests on the endpoints of a server.

use crate::support::{Client, Example, until};

/// A message of a client; its mask changes nothing.
fn message(kind: u8, payload: &str) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[0x80 | kind, 0x80 | len, 0, 0, 0, 0][..], payload.as_bytes()].concat()
}

/// A binary message of the server.
fn answer(payload: &str) -> Vec<u8> {
    [&[0x82, u8::try_from(payload.len()).unwrap()][..], payload.as_bytes()].concat()
}

fn upgraded(client: &mut Client) {
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    );
    // The key of RFC 6455, 1.3, and its answer.
    client.send("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let head = until_empty(client);
    assert!(head[0].starts_with("HTTP/1.1 101 "), "{head:?}");
    assert!(head.iter().any(|line| line.ends_with("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")), "{head:?}");
}

/// The lines up to an empty one.
fn until_empty(client: &mut Client) -> Vec<String> {
    let line = || Some(client.line().trim_end().to_owned()).filter(|line| !line.is_empty());
    std::iter::from_fn(line).collect()
}

#[test]
fn a_router_answers_on_tcp_and_unix_and_a_drain_ends_idle_connections() {
    let mut example = Example::start("http");
    let mut clients = example.both();
    for client in &mut clients {
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = until_empty(client);
            assert_eq!(head[0], "HTTP/1.1 200 OK");
            assert_eq!(client.line().trim_end(), "Hello");
        }
    }
    example.terminate();
    for client in &mut clients {
        assert_eq!(client.rest(), b"");
    }
    assert!(example.wait().success());
}

#[test]
fn lines_in_messages_come_back_and_a_drain_says_goodbye() {
    let mut example = Example::start("websocket");
    let mut clients = example.both();
    for client in &mut clients {
        upgraded(client);
        // A line in two messages, two lines in one, a ping between them.
        client.send([message(2, "on"), message(9, "?"), message(1, "e\ntwo\n")].concat());
        let mut received = Vec::new();
        until("the answers are there", || {
            received.extend(client.read(1));
            received.ends_with(b"two\n")
        });
        assert!(received.windows(3).any(|bytes| bytes == [0x8A, 1, b'?']), "a pong: {received:?}");
        let lines: Vec<u8> = received
            .iter()
            .copied()
            .filter(|byte| byte.is_ascii_lowercase() || *byte == b'\n')
            .collect();
        assert_eq!(lines, b"one\ntwo\n");
        client.send(message(2, "three\n"));
        client.expect(answer("three\n"));
    }
    example.terminate();
    for client in &mut clients {
        // A close message, and the end.
        assert_eq!(client.rest().first(), Some(&0x88));
    }
    assert!(example.wait().success());
}

#[test]
fn bytes_that_are_no_handshake_end_their_connection_only() {
    let example = Example::start("websocket");
    let mut bad = example.tcp();
    bad.send("hello\r\n\r\n");
    assert!(bad.ends());
    upgraded(&mut example.tcp());
}
