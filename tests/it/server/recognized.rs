//! One endpoint for several protocols: by the first bytes, and routes to their services.

use std::net::SocketAddr;
use std::time::Duration;

use ropewalk::endpoint::Protocols;
use ropewalk::leaf::route;
use ropewalk::memory::{self, Connector};
use ropewalk::{
    Addr, Bytes, ConnectionInfo, ConnectionLimitLayer, ConnectionService, Endpoint, Error, Lines,
    RawBytes, Result, Server, Session, framed, reply_fn, session,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;

use crate::harness::{LONG, Running, settle};

const PAUSE: Duration = Duration::from_millis(500);

/// Says its name and all that has come, when the peer has half-closed.
async fn says(mut s: Session<RawBytes>, name: &'static str) -> Result {
    let mut all = Vec::new();
    while let Some(bytes) = s.next().await? {
        all.extend_from_slice(&bytes);
    }
    s.feed(format!("{name} {}", all.escape_ascii()))
}

/// Speaks first.
async fn greets(mut s: Session<RawBytes>) -> Result {
    s.feed("hello. ")?;
    says(s, "greeter").await
}

fn is(name: &'static str) -> impl Fn(&ConnectionInfo) -> bool + Clone {
    move |connection| connection.peer().recognized() == Some(name)
}

/// A service for each protocol, and one that speaks first for all others.
fn service() -> impl ConnectionService<Error = Error> {
    route(session(RawBytes, greets))
        .when(is("ssh"), session(RawBytes, |s| says(s, "ssh")))
        .when(is("http"), session(RawBytes, |s| says(s, "http")))
}

fn protocols() -> Protocols {
    Protocols::new()
        .begins_with("ssh", "SSH-2.0-")
        .begins_with("http", "GET ")
        .begins_with("http", "POST ")
}

/// A server on a TCP socket and in memory.
async fn server(server: Server, protocols: Protocols) -> (Running, SocketAddr, Connector) {
    let (endpoint, connector) = memory::endpoint();
    let tcp = Endpoint::tcp(([127, 0, 0, 1], 0).into());
    let server =
        server.listen(tcp.recognize(protocols.clone())).listen(endpoint.recognize(protocols));
    let server = Running::start(server.serve(service())).await;
    let address = server.tcp_addr(0);
    (server, address, connector)
}

/// What is answered after these pieces and the end of the peer's part.
async fn answered(mut stream: impl AsyncRead + AsyncWrite + Unpin, pieces: &[&[u8]]) -> String {
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
        settle().await;
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(LONG, stream.read_to_string(&mut answer)).await.expect("it is answered").unwrap();
    answer
}

#[tokio::test]
async fn each_protocol_has_its_service_and_no_byte_is_lost_in_whichever_pieces_they_come() {
    let (server, address, connector) = server(Server::new(), protocols()).await;
    for (sent, name) in [
        ("SSH-2.0-x", "ssh"),
        ("GET / HTTP/1.1", "http"),
        ("POST ", "http"),
        ("PUT / HTTP/1.1", "hello. greeter"),
        ("SSH-1", "hello. greeter"),
        ("\u{16}\u{3}\u{1}", "hello. greeter"),
        ("x", "hello. greeter"),
        // The peer half-closes in the middle of what might have become one.
        ("SSH-2.0", "hello. greeter"),
        ("G", "hello. greeter"),
    ] {
        let bytes = sent.as_bytes();
        let whole = [bytes];
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let expected = format!("{name} {}", bytes.escape_ascii());
        for pieces in [&whole[..], &single] {
            let tcp = TcpStream::connect(address).await.unwrap();
            assert_eq!(answered(tcp, pieces).await, expected);
            let memory = connector.connect().await.unwrap();
            assert_eq!(answered(memory, pieces).await, expected);
        }
    }
    let counts = server.end().await;
    assert_eq!(counts.accepted(), 9 * 4);
}

#[tokio::test]
async fn a_large_stream_behind_the_first_bytes_is_whole() {
    let protocols = Protocols::new().begins_with("any", "\0");
    let endpoint = Endpoint::tcp(([127, 0, 0, 1], 0).into()).recognize(protocols);
    let echo = framed(RawBytes, reply_fn(|bytes: Bytes| bytes));
    let server = Running::start(Server::new().listen(endpoint).serve(echo)).await;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[2]).collect();
    let mut stream = server.connect().await;
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(
        async {
            write.write_all(&bytes).await.unwrap();
            write.shutdown().await.unwrap();
        },
        read.read_to_end(&mut answer)
    );
    read.unwrap();
    assert!(answer == bytes);
    drop(stream);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_too_little_is_closed_after_ten_seconds_and_is_no_connection() {
    let (server, _, connector) = server(Server::new(), protocols()).await;
    for sent in [&b""[..], b"SSH-"] {
        let began = Instant::now();
        let mut stream = connector.connect().await.unwrap();
        stream.write_all(sent).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 10);
    }
    // Neither is one that closes without a word.
    drop(connector.connect().await.unwrap());
    settle().await;
    let preambles = server.handle().preambles();
    assert_eq!((preambles.timed_out(), preambles.failed(), preambles.pending()), (2, 1, 0));
    assert_eq!(server.end().await.accepted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_the_server_to_speak_is_served_after_a_moment() {
    let (server, _, connector) = server(Server::new(), protocols().silent_after(PAUSE)).await;
    for sent in [&b""[..], b"SSH-"] {
        let began = Instant::now();
        let mut stream = connector.connect().await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut hello = [0; 7];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello. ");
        assert!((PAUSE..PAUSE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        let expected = format!("greeter {}2.0-", sent.escape_ascii());
        assert_eq!(answered(stream, &[b"2.0-"]).await, expected);
    }
    // One that half-closes at once has nothing to send, and is not to blame.
    let began = Instant::now();
    let stream = connector.connect().await.unwrap();
    assert_eq!(answered(stream, &[]).await, "hello. greeter ");
    assert!(began.elapsed() < PAUSE);
    // One that speaks is recognized at once.
    let began = Instant::now();
    let stream = connector.connect().await.unwrap();
    assert_eq!(answered(stream, &[b"SSH-2.0-x"]).await, "ssh SSH-2.0-x");
    assert!(began.elapsed() < PAUSE);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn those_whose_protocol_is_not_known_yet_are_under_the_limit_of_preambles() {
    let (server, _, connector) = server(Server::new().max_preambles(2), protocols()).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(connector.connect().await.unwrap());
        sleep(PAUSE).await;
    }
    let stream = connector.connect().await.unwrap();
    assert_eq!(answered(stream, &[b"GET /"]).await, "http GET /");
    assert_eq!(server.handle().preambles().dropped(), 3);
    assert_eq!(server.handle().endpoints()[1].preambles().dropped(), 3);
    drop(silent);
    assert_eq!(server.end().await.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_those_that_are_silent_and_serves_those_that_have_begun() {
    let (server, _, connector) = server(Server::new(), protocols()).await;
    let mut silent = connector.connect().await.unwrap();
    let mut begun = connector.connect().await.unwrap();
    begun.write_all(b"SSH-").await.unwrap();
    settle().await;
    server.handle().drain(Duration::from_secs(60));
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(answered(begun, &[b"2.0-x"]).await, "ssh SSH-2.0-x");
    assert_eq!(server.over().await.accepted(), 1);
}

#[test]
fn an_endpoint_that_recognizes_protocols_is_not_the_one_that_its_string_names() {
    let endpoint: Endpoint = "tcp:127.0.0.1:8007".parse().unwrap();
    let recognizes = endpoint.clone().recognize(protocols());
    assert_ne!(recognizes, endpoint);
    assert_eq!(recognizes, endpoint.recognize(protocols()));
}

#[tokio::test(start_paused = true)]
async fn a_full_limit_around_one_service_of_a_route_delays_its_own_connections_only() {
    let (endpoint, connector) = memory::endpoint();
    let echo = || framed(Lines::lf(), reply_fn(|line: Bytes| line));
    let one_at_a_time = ConnectionLimitLayer::new(1).layer(echo());
    let service = route(echo()).when(is("a"), one_at_a_time);
    let protocols = Protocols::new().begins_with("a", "a");
    let server = Running::start(Server::new().listen(endpoint.recognize(protocols)).serve(service));
    let server = server.await;
    let mut first = connector.connect().await.unwrap();
    first.write_all(b"a\n").await.unwrap();
    first.read_exact(&mut [0; 2]).await.unwrap();
    let mut second = connector.connect().await.unwrap();
    second.write_all(b"a\n").await.unwrap();
    assert!(timeout(PAUSE, second.read(&mut [0])).await.is_err(), "it waits");
    let mut other = connector.connect().await.unwrap();
    other.write_all(b"b\n").await.unwrap();
    other.read_exact(&mut [0; 2]).await.unwrap();
    // Those that are served and the one that waits.
    assert_eq!(server.counts().active(), 3);
    drop(first);
    second.read_exact(&mut [0; 2]).await.unwrap();
    drop((second, other));
    let counts = server.end().await;
    assert!(matches!(counts.accepted(), 3), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_condition_that_is_true_chooses_the_service() {
    let (endpoint, connector) = memory::endpoint();
    let named = |name: &'static str| session(RawBytes, move |s| says(s, name));
    let on_memory = |connection: &ConnectionInfo| connection.peer().addr() == &Addr::Memory;
    let service = route(named("none"))
        .when(|_| false, named("never"))
        .when(on_memory, named("first"))
        .when(|_| true, named("second"));
    let server = Running::start(Server::new().listen(endpoint).serve(service)).await;
    assert_eq!(answered(connector.connect().await.unwrap(), &[b"x"]).await, "first x");
    server.end().await;
}
