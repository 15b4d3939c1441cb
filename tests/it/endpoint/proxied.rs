//! Endpoints behind a proxy: the peer of a connection, and headers that never become a connection.

use std::time::Duration;

use ropewalk::endpoint::PreambleDrop;
use ropewalk::memory::{self, Connector, MemoryStream};
use ropewalk::proxy::{Header, Tlv};
use ropewalk::{Addr, Handle, Lines, RawBytes, Result, Server, Session, framed, reply_fn, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n";

fn tcp(addr: &str) -> Addr {
    Addr::Tcp(addr.parse().unwrap())
}

fn binary() -> Vec<u8> {
    let header = Header::new(tcp("[2001:db8::7]:56324"), tcp("[2001:db8::1]:25"));
    header.with_tlv(Tlv::AUTHORITY, b"mail.example.org").unwrap().with_checksum().to_v2()
}

/// Sends the peer's address, then echoes each line.
async fn who(mut s: Session<Lines>) -> Result {
    let peer = s.peer();
    let told = peer.proxied().unwrap();
    let name = told.header().tlv(Tlv::AUTHORITY).unwrap_or_default();
    let text = format!("{peer} via {} {}", told.proxy(), String::from_utf8_lossy(name));
    s.feed(text)?;
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

async fn serve() -> (Handle, Connector, JoinSet<Result>) {
    serve_on(Server::new()).await
}

async fn serve_on(server: Server) -> (Handle, Connector, JoinSet<Result>) {
    let (endpoint, connector) = memory::endpoint();
    let server = server
        .listen(endpoint.proxied([]))
        .serve(session(Lines::crlf(), who))
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let mut set = JoinSet::new();
    set.spawn(server);
    (handle, connector, set)
}

async fn rest(client: &mut MemoryStream) -> String {
    let mut text = Vec::new();
    // A closed connection may be reset.
    drop(
        timeout(Duration::from_secs(600), client.read_to_end(&mut text))
            .await
            .expect("it is closed"),
    );
    String::from_utf8(text).unwrap()
}

/// What is answered to bytes in these pieces, each of which arrives before the next is sent.
async fn answered(connector: &Connector, pieces: &[&[u8]]) -> String {
    let mut client = connector.connect().await.unwrap();
    for piece in pieces {
        client.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    client.shutdown().await.unwrap();
    rest(&mut client).await
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_the_clients_and_its_first_byte_is_the_one_behind_the_header() {
    let (handle, connector, _server) = serve().await;
    for (header, peer) in [
        (LINE.to_vec(), "tcp:192.0.2.7:56324 via memory: "),
        (binary(), "tcp:[2001:db8::7]:56324 via memory: mail.example.org"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "memory: via memory: "),
        (Header::local().to_v2(), "memory: via memory: "),
        (Header::new(Addr::Unix(None), Addr::Unix(None)).to_v2(), "unix: via memory: "),
    ] {
        // Everything in one segment, a second header among it, which is a line like any other.
        let bytes = [&header[..], b"hello\r\n", LINE].concat();
        let text = String::from_utf8(LINE.to_vec()).unwrap();
        assert_eq!(answered(&connector, &[&bytes]).await, format!("{peer}\r\nhello\r\n{text}"));
    }
    assert_eq!((handle.preambles().begun(), handle.preambles().passed()), (5, 5));
    assert_eq!(handle.counts().accepted(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_header_may_be_cut_anywhere() {
    let (_handle, connector, _server) = serve().await;
    for (header, peer) in
        [(LINE.to_vec(), "tcp:192.0.2.7:56324"), (binary(), "tcp:[2001:db8::7]:56324")]
    {
        let bytes = [&header[..], b"hello\r\n"].concat();
        for at in 0..=bytes.len() {
            let answer = answered(&connector, &[&bytes[..at], &bytes[at..]]).await;
            assert!(
                answer.starts_with(peer) && answer.ends_with("\r\nhello\r\n"),
                "cut at {at}: {answer}"
            );
        }
        let one_by_one: Vec<&[u8]> = bytes.chunks(1).collect();
        assert!(answered(&connector, &one_by_one).await.ends_with("\r\nhello\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_header_is_closed_at_once_and_never_served() {
    let (handle, connector, _server) = serve().await;
    let mut closed = 0;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"hello\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"PROXY TCP4 1.1.1.1\r\n2.2.2.2 8080\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 1\r\nhello\r\n",
        b"PROXY UNKNOWN ....................................................................................................",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c............hello\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff............",
    ] {
        let mut client = connector.connect().await.unwrap();
        let began = Instant::now();
        client.write_all(bytes).await.unwrap();
        assert_eq!(rest(&mut client).await, "");
        assert!(began.elapsed() < Duration::from_millis(100), "{:?} after {:?}", began.elapsed(), bytes.escape_ascii());
        closed += 1;
        assert_eq!(handle.preambles().failed(), closed);
    }
    assert_eq!(handle.counts().accepted(), 0);
}

#[tokio::test(start_paused = true)]
async fn half_a_header_and_an_end_is_closed() {
    let (handle, connector, _server) = serve().await;
    let binary = binary();
    for header in [LINE, &binary[..]] {
        for at in 0..header.len() {
            assert_eq!(answered(&connector, &[&header[..at]]).await, "", "{at} bytes");
        }
    }
    assert_eq!(handle.preambles().failed(), (LINE.len() + binary.len()) as u64);
    assert_eq!(handle.counts().accepted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_header_has_five_seconds_however_it_comes() {
    let (handle, connector, _server) = serve().await;
    for bytes in [&b""[..], b"PROXY TCP4 "] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(bytes).await.unwrap();
        let began = Instant::now();
        assert_eq!(rest(&mut client).await, "");
        assert_eq!(began.elapsed().as_secs(), 5);
    }
    // A byte a second does not count as progress.
    let mut client = connector.connect().await.unwrap();
    let began = Instant::now();
    let mut sent = 0;
    while client.write_all(&LINE[sent..=sent]).await.is_ok() {
        sent += 1;
        sleep(Duration::from_secs(1)).await;
    }
    assert!((5..=7).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(handle.preambles().timed_out(), 3);
    // The deadline of a header ends with it, and does not apply to the first frame.
    let mut client = connector.connect().await.unwrap();
    sleep(Duration::from_secs(4)).await;
    client.write_all(LINE).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    client.write_all(b"hello\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert!(rest(&mut client).await.ends_with("hello\r\n"));
}

#[tokio::test(start_paused = true)]
async fn three_hundred_silent_connections_do_not_keep_out_an_honest_one() {
    let (handle, connector, _server) = serve_on(Server::new().max_preambles(256)).await;
    assert_eq!(handle.max_preambles(), 256);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(connector.connect().await.unwrap());
    }
    let began = Instant::now();
    assert!(answered(&connector, &[LINE, b"hello\r\n"]).await.ends_with("hello\r\n"));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(handle.preambles().pending() <= 256);
    assert_eq!(handle.preambles().dropped(), handle.preambles().dropped_for(PreambleDrop::Silent));
    assert_eq!(handle.counts().accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_a_header_nothing_reaches_the_service() {
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new()
        .listen(endpoint.proxied([]))
        .serve(framed(RawBytes, reply_fn(|b: ropewalk::Bytes| b)));
    tokio::spawn(server);
    let mut client = connector.connect().await.unwrap();
    client.write_all(&[LINE, b"x"].concat()).await.unwrap();
    let mut answer = [0; 8];
    assert_eq!(
        timeout(Duration::from_secs(60), client.read(&mut answer)).await.unwrap().unwrap(),
        1
    );
    assert!(
        timeout(Duration::from_secs(60), client.read(&mut answer)).await.is_err(),
        "nor is it answered"
    );
}

#[tokio::test(start_paused = true)]
async fn the_defaults_leave_room_for_preambles_within_the_descriptor_limit() {
    let limit = usize::try_from(crate::harness::descriptors()).unwrap();
    let descriptors = (limit / 5).saturating_mul(4).saturating_sub(64).max(limit / 2);
    let preambles = (descriptors / 4).min(4096);
    let (with, _connector, _server) = serve().await;
    assert_eq!(with.max_preambles(), preambles);
    assert_eq!(with.max_connections(), (descriptors - preambles).min(10_000));
    let without = Server::new()
        .listen("tcp:127.0.0.1:0")
        .serve(framed(RawBytes, reply_fn(|b: ropewalk::Bytes| b)));
    assert_eq!(without.handle().max_connections(), descriptors.min(10_000));
    // A number that is set does not change with the default of the other one.
    let (set, _connector, _server) =
        serve_on(Server::new().max_connections(7).max_preambles(0)).await;
    assert_eq!((set.max_connections(), set.max_preambles()), (7, 1));
}
