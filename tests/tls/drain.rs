//! A drain under TLS: what had arrived is answered, encrypted or not yet decrypted, and the end is
//! a clean one.

use std::time::Duration;

use ropewalk::{Bytes, CloseReason, ConnectionService, Lines, RawBytes, framed, reply_fn};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::encrypted::{Ca, Client, Folder, PATIENCE, Running, echo, localhost, soon};

fn service() -> impl ConnectionService {
    framed(Lines::crlf(), reply_fn(|line: Bytes| line))
}

#[tokio::test]
async fn arrived_frames_are_answered_and_the_goodbye_follows() {
    let (ca, folder) = (Ca::new(), Folder::new());
    // More than one record and more than one read, and no more than a receive buffer holds: what
    // the sender's kernel has yet to send has not arrived.
    let request = "a line of text\r\n".repeat(6_000);
    for version in [&TLS12, &TLS13] {
        for times in [0, 1] {
            let running = Running::tls(localhost(&ca, &folder), service()).await;
            let client = Client::new(&ca, "localhost").version(version);
            let mut tcp = client.tcp(running.addr).await.unwrap();
            let mut memory = client.memory(&running.memory).await.unwrap();
            echo(&mut tcp, b"first\r\n").await.unwrap();
            echo(&mut memory, b"first\r\n").await.unwrap();
            let request = request.repeat(times);
            let short = &request.as_bytes()[..times * 1600];
            tcp.write_all(request.as_bytes()).await.unwrap();
            tcp.flush().await.unwrap();
            memory.write_all(short).await.unwrap();
            memory.flush().await.unwrap();
            // The server has had no chance to look at any of it: it runs on this thread.
            running.handle.drain(PATIENCE);
            let (mut answer, mut other) = (Vec::new(), Vec::new());
            soon(tcp.read_to_end(&mut answer)).await.unwrap();
            assert!(answer == request.as_bytes(), "{} bytes of {}", answer.len(), request.len());
            soon(memory.read_to_end(&mut other)).await.unwrap();
            assert!(other == short, "{} bytes of {}", other.len(), short.len());
            drop((tcp, memory));
            let handle = running.handle.clone();
            running.end().await;
            assert_eq!(handle.counts().closed(CloseReason::Drained), 2);
        }
    }
}

#[tokio::test]
async fn half_a_record_does_not_hold_up_a_drain() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    let mut stream = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
    echo(&mut stream, b"first\r\n").await.unwrap();
    let (socket, session) = stream.get_mut();
    std::io::Write::write_all(&mut session.writer(), b"second\r\n").unwrap();
    let mut record = Vec::new();
    session.write_tls(&mut record).unwrap();
    socket.write_all(&record[..record.len() / 2]).await.unwrap();
    let began = Instant::now();
    running.handle.drain(PATIENCE);
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    drop(stream);
    running.end().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_handshake_under_way_is_finished_and_its_request_answered() {
    let (ca, folder) = (Ca::new(), Folder::new());
    for version in [&TLS12, &TLS13] {
        let running = Running::tls(localhost(&ca, &folder), service()).await;
        let client = Client::new(&ca, "localhost").version(version);
        let connector = client.connector();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        // Its hello is on its way; the server has yet to look.
        let mut connecting =
            connector.connect(name, TcpStream::connect(running.addr).await.unwrap());
        assert!(futures::poll!(&mut connecting).is_pending());
        running.handle.drain(PATIENCE);
        let mut stream = soon(connecting).await.unwrap();
        // Right behind the end of its handshake.
        stream.write_all(b"hello\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty() || answer == b"hello\r\n");
        if *version == TLS13 {
            // The client's last message and the request come together.
            assert_eq!(answer, b"hello\r\n");
        }
        drop(stream);
        let handle = running.handle.clone();
        running.end().await;
        assert_eq!(handle.preambles().passed(), 1);
        assert_eq!(handle.counts().closed(CloseReason::Drained), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_two_seconds_for_a_silent_peer_and_no_longer() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running =
        Running::tls(localhost(&ca, &folder), framed(RawBytes, reply_fn(|bytes: Bytes| bytes)))
            .await;
    let mut silent = running.memory.connect().await.unwrap();
    let began = Instant::now();
    let handle = running.handle.clone();
    running.end().await;
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!((handle.preambles().dropped(), handle.counts().accepted()), (1, 0));
}
