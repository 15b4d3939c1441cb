//! TLS and plain text on one port, and certificates that a client may have.

use std::time::Duration;

use ropewalk::{
    Bytes, ConnectionService, Endpoint, RawBytes, Result, Server, Session, framed, reply_fn,
    session,
};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::encrypted::{Ca, Client, Folder, Running, client_hello, echo, localhost, soon, until};

fn service() -> impl ConnectionService {
    framed(RawBytes, reply_fn(|bytes: Bytes| bytes))
}

/// Says whether it is encrypted, once something has come.
fn how() -> impl ConnectionService {
    session(RawBytes, async |mut s: Session<RawBytes>| -> Result {
        let sent = s.next().await?.unwrap_or_default();
        let has_tls = if s.info().tls().is_some() { "tls" } else { "plain" };
        s.feed(format!("{has_tls} {}", sent.escape_ascii()))
    })
}

#[tokio::test]
async fn one_port_takes_both_and_loses_no_byte_of_either() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder).accept_plain(true), how()).await;
    for version in [&TLS12, &TLS13] {
        let mut encrypted =
            Client::new(&ca, "localhost").version(version).tcp(running.addr).await.unwrap();
        encrypted.write_all(b"hello").await.unwrap();
        let mut said = String::new();
        soon(encrypted.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "tls hello");
    }
    // In one piece, byte by byte, and one byte alone.
    for bytes in [&b"hello"[..], b"\x17\x03\x01", b"\0", b"\x15"] {
        let mut plain = running.memory.connect().await.unwrap();
        plain.write_all(bytes).await.unwrap();
        let mut said = String::new();
        soon(plain.read_to_string(&mut said)).await.unwrap();
        // The byte that was read first may be a chunk of its own.
        let all = format!("plain {}", bytes.escape_ascii());
        let first = format!("plain {}", bytes[..1].escape_ascii());
        assert!(said == all || said == first, "{said:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_large_plain_stream_is_whole() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder).accept_plain(true), service()).await;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut tcp = TcpStream::connect(running.addr).await.unwrap();
    let (mut read, mut write) = tcp.split();
    let mut answer = Vec::new();
    let both = tokio::join!(
        async {
            write.write_all(&bytes).await.unwrap();
            write.shutdown().await.unwrap();
        },
        read.read_to_end(&mut answer),
    );
    both.1.unwrap();
    assert!(answer == bytes);
    drop(tcp);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_has_the_time_of_a_handshake_and_holds_a_place_of_a_preamble() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder).accept_plain(true);
    let running = Running::tls_on(Server::new().max_preambles(2), tls, service()).await;
    let start = Instant::now();
    let mut silent = running.memory.connect().await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert!((10..11).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(
        (running.handle.preambles().timed_out(), running.handle.counts().accepted()),
        (1, 0)
    );
    // A hello that drips has no more time because its first byte has come.
    let hello = client_hello(&ca).await;
    let start = Instant::now();
    let mut half = running.memory.connect().await.unwrap();
    sleep(Duration::from_secs(9)).await;
    half.write_all(&hello[..9]).await.unwrap();
    assert_eq!(half.read(&mut [0]).await.unwrap(), 0);
    assert!((10..11).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // A peer that closes before its first byte does not count as a connection.
    drop(running.memory.connect().await.unwrap());
    until("all are gone", || running.handle.preambles().pending() == 0).await;
    let mut good = running.memory.connect().await.unwrap();
    echo(&mut good, b"hello").await.unwrap();
    drop(good);
    assert_eq!(running.handle.counts().accepted(), 1);
    running.end().await;
}

#[tokio::test]
async fn without_it_plain_text_is_no_handshake() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    let mut plain = TcpStream::connect(running.addr).await.unwrap();
    plain.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"hello"), "{answer:?}");
    assert_eq!(running.handle.counts().accepted(), 0);
    running.end().await;
}

#[tokio::test]
async fn a_client_certificate_is_optional_but_a_wrong_one_is_refused() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let authority = folder.write("ca.pem", ca.pem());
    let tls = localhost(&ca, &folder).optional_client_ca(&authority);
    let certificates = session(RawBytes, async |mut s: Session<RawBytes>| -> Result {
        s.next().await?;
        s.feed(s.peer().certificates().len().to_string())
    });
    let running = Running::tls(tls, certificates).await;
    let (known, stranger) = (ca.issue(["someone"]), Ca::new().issue(["someone"]));
    for (client, certificates) in [
        (Client::new(&ca, "localhost"), "0"),
        (Client::new(&ca, "localhost").identity(&known), "1"),
    ] {
        let mut stream = client.tcp(running.addr).await.unwrap();
        stream.write_all(b"?").await.unwrap();
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, certificates);
    }
    // With TLS 1.3 the client hears of it at its first read.
    let mut refused = Client::new(&ca, "localhost")
        .version(&TLS13)
        .identity(&stranger)
        .tcp(running.addr)
        .await
        .unwrap();
    let _ = refused.write_all(b"?").await;
    assert!(soon(refused.read(&mut [0; 1])).await.is_err());
    running.end().await;
}

#[test]
fn the_options_of_an_endpoint_are_those_of_the_code() {
    let tls = ropewalk::TlsConfig::folder("x").optional_client_ca("ca.pem").accept_plain(true);
    let endpoint = Endpoint::tcp(([0, 0, 0, 0], 1).into()).tls(tls);
    let string = "tls:1?certs=x&client-ca=ca.pem&client-cert=optional&plain=true";
    assert_eq!(endpoint.to_string(), string);
    assert_eq!(string.parse(), Ok(endpoint.clone()));
    let required: Endpoint =
        "tls:1?certs=x&client-ca=ca.pem&client-cert=required&plain=false".parse().unwrap();
    assert_eq!(required.to_string(), "tls:1?certs=x&client-ca=ca.pem");
    assert_ne!(required, endpoint);
    for (bad, problem) in [
        ("tls:1?certs=x&client-cert=optional", "client-cert goes with client-ca"),
        ("tls:1?certs=x&plain=maybe", "plain=maybe is unknown"),
        ("tls:1?certs=x&plain=true&plain=true", "plain is given twice"),
        ("tls:1?certs=x&client-ca=x&client-cert=", "client-cert= is unknown"),
    ] {
        let message = bad.parse::<Endpoint>().unwrap_err().to_string();
        assert!(message.contains(problem), "{message}");
    }
}
