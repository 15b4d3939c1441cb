//! Peers that do not mean it: silence, garbage, half a handshake, crowds. Nobody else notices.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rcgen::CertificateParams;
use ropewalk::{
    Bytes, ConnectionService, RawBytes, Result, Server, Session, framed, reply_fn, session,
};
use rustls::version::{TLS12, TLS13};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional, duplex,
};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::encrypted::{
    self, Ca, Client, Folder, PATIENCE, Running, client_hello, echo, localhost, soon, until,
};
use crate::support;

fn service() -> impl ConnectionService {
    framed(RawBytes, reply_fn(|bytes: Bytes| bytes))
}

#[tokio::test(start_paused = true)]
async fn silence_and_half_a_hello_end_at_ten_seconds_however_they_drip() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    let hello = client_hello(&ca).await;
    for (sent, drips) in
        [(0, false), (3, false), (hello.len() / 2, false), (0, true), (hello.len() / 2, true)]
    {
        let began = Instant::now();
        let mut client = running.memory.connect().await.unwrap();
        client.write_all(&hello[..sent]).await.unwrap();
        let mut rest = hello[sent..hello.len() - 1].iter();
        if drips {
            while client.write_all(&[*rest.next().unwrap()]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(began.elapsed() < PATIENCE);
            }
        } else {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert!(began.elapsed() < Duration::from_millis(10_250), "{:?}", began.elapsed());
        }
        assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert_eq!(running.handle.preambles().timed_out(), 5);
    assert_eq!(running.handle.counts().accepted(), 0);
    running.end().await;
}

#[tokio::test]
async fn three_hundred_silent_connections_do_not_keep_out_a_hundred_honest_ones() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running =
        Running::tls_on(Server::new().max_preambles(256), localhost(&ca, &folder), service()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(running.addr).await.unwrap());
    }
    until("the crowd is in", || running.handle.preambles().begun() == 300).await;
    let began = Instant::now();
    let client = Client::new(&ca, "localhost");
    for _ in 0..100 {
        let mut stream = client.tcp(running.addr).await.unwrap();
        echo(&mut stream, b"hello").await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let preambles = running.handle.preambles();
    assert!(
        preambles.passed() == 100 && preambles.pending() <= 256 && preambles.dropped() >= 44,
        "{preambles:?}"
    );
}

#[tokio::test]
async fn other_protocols_are_told_so_and_closed_at_once() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    let too_long = [22, 3, 3, 255, 255].into_iter().chain([0; 70_000]).collect::<Vec<u8>>();
    let huge_hello = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x3ffc]].concat();
    let preambles: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO me\r\n",
        b"\0\0\0\x85\xffSMBr\0\0\0",
        b"\x80\x2e\x01\0\x02",
        &too_long,
        &huge_hello,
    ];
    let began = Instant::now();
    for bytes in preambles {
        let mut client = TcpStream::connect(running.addr).await.unwrap();
        drop(client.write_all(bytes).await);
        let mut alert = Vec::new();
        soon(client.read_to_end(&mut alert)).await.unwrap();
        // For a hello of 16 MiB, which rustls refuses when it is announced, it has no alert.
        let expected = if bytes == huge_hello { None } else { Some(&21) };
        assert_eq!(
            alert.first(),
            expected,
            "{:?} after {:?}",
            alert,
            bytes[..5].escape_ascii().to_string()
        );
    }
    // Far less than their deadline: it was the alert that ended them.
    assert!(began.elapsed() < Duration::from_secs(5));
    until("all are counted", || running.handle.preambles().failed() == 7).await;
    running.end().await;
}

#[tokio::test]
async fn a_peer_that_goes_away_anywhere_in_the_handshake_leaves_nothing_behind() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    let hello = client_hello(&ca).await;
    let mut gone = 0;
    for at in 0..hello.len() {
        let mut client = running.memory.connect().await.unwrap();
        client.write_all(&hello[..at]).await.unwrap();
        if at % 2 == 0 {
            client.abort();
        } else {
            drop(client);
        }
        gone += 1;
    }
    // Past the hello: the answer to it is there, and nobody reads it.
    let mut client = running.memory.connect().await.unwrap();
    client.write_all(&hello).await.unwrap();
    client.read_u8().await.unwrap();
    drop(client);
    until("all have failed", || running.handle.preambles().failed() == gone + 1).await;
    let mut honest = Client::new(&ca, "localhost").memory(&running.memory).await.unwrap();
    echo(&mut honest, b"hello").await.unwrap();
    honest.shutdown().await.unwrap();
    running.end().await;
}

/// A stream that writes one byte at a time, and the next one when its peer has had turns enough to
/// read it.
struct Drip<S> {
    stream: S,
    turns: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Drip<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Drip<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.turns > 0 {
            self.turns -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turns = 10;
        Pin::new(&mut self.stream).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_handshake_in_segments_of_one_byte_is_a_handshake() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    for version in [&TLS12, &TLS13] {
        let client = Client::new(&ca, "localhost").version(version);
        let stream = Drip { stream: running.memory.connect().await.unwrap(), turns: 0 };
        let mut stream = client.shake(stream).await.unwrap();
        echo(&mut stream, b"hello").await.unwrap();
    }
}

/// Each byte of the hello has a record of its own.
#[tokio::test]
async fn a_hello_in_records_of_one_byte_is_a_hello() {
    let (ca, folder) = (Ca::new(), Folder::new());
    for plain in [false, true] {
        let running = Running::tls(localhost(&ca, &folder).accept_plain(plain), service()).await;
        let (ours, mut theirs) = duplex(64 * 1024);
        let mut server = TcpStream::connect(running.addr).await.unwrap();
        let relay = async {
            let mut header = [0; 5];
            theirs.read_exact(&mut header).await.unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            theirs.read_exact(&mut hello).await.unwrap();
            let records = hello.iter().flat_map(|byte| [header[0], 3, 1, 0, 1, *byte]);
            server.write_all(&records.collect::<Vec<u8>>()).await.unwrap();
            drop(copy_bidirectional(&mut theirs, &mut server).await);
        };
        let client = async {
            let mut stream = Client::new(&ca, "localhost").shake(ours).await.unwrap();
            echo(&mut stream, b"hello").await.unwrap();
        };
        soon(async { tokio::join!(relay, client) }).await;
        running.end().await;
    }
}

#[tokio::test]
async fn a_large_certificate_is_shown_and_a_chain_too_large_is_refused() {
    let (ca, folder, people) = (Ca::new(), Folder::new(), Ca::new());
    let names = |n: usize| {
        (0..n).map(|i| format!("name-{i}.{}.example", "x".repeat(40))).collect::<Vec<_>>()
    };
    // Some 30 kB: several records, and more than one read.
    let big = ca.issue_params(
        &CertificateParams::new([vec!["localhost".to_owned()], names(500)].concat()).unwrap(),
    );
    assert!(big.der.len() > 25_000);
    let tls = ropewalk::TlsConfig::pem(&big.cert, &big.key)
        .client_ca(folder.write("people.pem", people.pem()));
    let running = Running::tls(tls, service()).await;
    let fits = people.issue_params(&CertificateParams::new(names(500)).unwrap());
    let mut stream = Client::new(&ca, "localhost").identity(&fits).tcp(running.addr).await.unwrap();
    echo(&mut stream, b"hello").await.unwrap();
    // More than the 64 KiB a message of a handshake may have.
    let client = Client::new(&ca, "localhost").identity_often(&fits, 3);
    let refused = match client.tcp(running.addr).await {
        Ok(mut stream) => soon(stream.read_u8()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    until("it is counted", || running.handle.preambles().failed() == 1).await;
    assert_eq!(running.handle.counts().accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_its_goodbye_holds_up_a_drain_only_briefly() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let service = session(RawBytes, async |mut s: Session<RawBytes>| {
        s.next().await?;
        // All that the pipe holds and more, so that the goodbye has no room.
        s.feed(vec![b'x'; 60 * 1024])?;
        s.close().await
    });
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let mut client = Client::new(&ca, "localhost").memory(&running.memory).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    let began = Instant::now();
    until_paused(|| running.handle.counts().closed_in_all() == 1).await;
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    drop(client);
}

/// Waits under paused time, which moves on when nothing else can.
async fn until_paused(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn no_descriptor_stays_behind_whatever_became_of_the_handshake() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let issued = ca.issue(["localhost"]);
    let pem = folder.write("x.pem", format!("{}{}", issued.cert, issued.key));
    let pem = encrypted::text(&pem);
    let example = support::Example::start_with("tls_echo", &["--cert", pem, "--key", pem]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(&ca, "localhost");
        echo(&mut client.tcp(example.tcp).await.unwrap(), b"hello").await.unwrap();
        let hello = client_hello(&ca).await;
        let mut silent = Vec::new();
        for i in 0..400 {
            let mut socket = TcpStream::connect(example.tcp).await.unwrap();
            match i % 5 {
                0 => silent.push(socket),
                1 => drop(socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await),
                2 => drop(socket.write_all(&hello[..i % hello.len()]).await),
                3 => socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap(),
                _ => echo(&mut client.shake(socket).await.unwrap(), b"hello").await.unwrap(),
            }
        }
        assert!(example.descriptors() > 80);
        drop(silent);
    });
    // Idle: what it has besides listening is the runtime's.
    let idle = support::Example::start("tls_echo");
    support::until("all descriptors are closed", || example.descriptors() <= idle.descriptors());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_slowly_does_not_count_as_stalled() {
    const MANY: usize = 400_000;
    let (ca, folder) = (Ca::new(), Folder::new());
    let answering = session(RawBytes, async |mut s: Session<RawBytes>| -> Result {
        s.feed_raw(vec![b'.'; MANY])?;
        s.flush().await?;
        s.feed_raw("all taken")
    });
    let running = Running::tls(localhost(&ca, &folder), answering).await;
    let mut client = Client::new(&ca, "localhost").memory(&running.memory).await.unwrap();
    let mut heard = vec![0; MANY];
    for part in heard.chunks_mut(16 * 1024) {
        client.read_exact(part).await.unwrap();
        // Long. It may have taken the next record from the stream already: so two of these are less
        // than a write stall.
        tokio::time::sleep(Duration::from_secs(14)).await;
    }
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "all taken");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn floods_of_empty_records_alerts_and_key_updates_end_their_connection() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let running = Running::tls(localhost(&ca, &folder), service()).await;
    let began = Instant::now();
    // Warnings that nothing follows from, an empty handshake message, a change of ciphers before
    // there are any.
    let records: [&[u8]; 3] =
        [&[0x15, 3, 3, 0, 2, 1, 90], &[0x16, 3, 3, 0, 0], &[0x14, 3, 3, 0, 1, 1]];
    for record in records {
        let mut client = running.memory.connect().await.unwrap();
        // It may be closed before all is written.
        drop(client.write_all(&record.repeat(10_000)).await);
        drop(soon(client.read_to_end(&mut Vec::new())).await);
    }
    until_paused(|| running.handle.preambles().failed() == 3).await;

    let mut client =
        Client::new(&ca, "localhost").version(&TLS13).memory(&running.memory).await.unwrap();
    echo(&mut client, b"hello").await.unwrap();
    for _ in 0..1000 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
    }
    drop(client.flush().await);
    soon(client.read_to_end(&mut Vec::new())).await.expect_err("it is ended with an error");
    until_paused(|| running.handle.counts().closed_in_all() == 1).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it took {:?}, so a deadline has ended it",
        began.elapsed()
    );
    running.end().await;
}
