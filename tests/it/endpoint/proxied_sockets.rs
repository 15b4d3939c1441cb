//! Endpoints behind a proxy, on sockets: trusted peers, and the addresses that layers see.
#![cfg(target_os = "linux")] // where all of 127.0.0.0/8 is this machine

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::proxy::Header;
use ropewalk::{Addr, Endpoint, Handle, Lines, Result, Server, Session, session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::encrypted::{self, Ca, Client, Folder, localhost, soon, until};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n";
const CLIENT: &str = "tcp:192.0.2.7:56324";

/// Sends the peer's address, then echoes each line.
async fn who(mut s: Session<Lines>) -> Result {
    let peer = s.peer().clone();
    let via = peer.proxied().map(|told| told.proxy());
    let own = |peer: &ropewalk::Peer| peer.credentials().is_some();
    let (tls, addr) = (peer.tls().is_some(), s.local());
    s.feed(format!(
        "{peer} {} via {via:?} {} tls {tls} at {addr}",
        own(&peer),
        via.is_some_and(own)
    ))?;
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

async fn serve(endpoint: impl Into<Endpoint>) -> (Handle, Addr) {
    let server = Server::new().listen(endpoint.into()).serve(session(Lines::crlf(), who));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let addr = handle.addresses()[0].clone();
    (handle, addr)
}

async fn serve_text(endpoint: &str) -> (Handle, SocketAddr) {
    let (handle, Addr::Tcp(addr)) = serve(endpoint.parse::<Endpoint>().unwrap()).await else {
        panic!("no port")
    };
    (handle, addr)
}

/// A connection from an address of this machine's own.
async fn from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(ip), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Everything that is answered to these bytes and an end.
async fn answered<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    // Who is refused may find the connection reset.
    drop(stream.write_all(bytes).await);
    drop(stream.shutdown().await);
    drop(soon(stream.read_to_end(&mut answer)).await);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn an_untrusted_proxy_is_closed_at_once_and_its_header_not_believed() {
    let (handle, addr) = serve_text("proxy+tcp:127.0.0.1:0?trust=127.0.0.1,127.0.1.0/24").await;
    for ip in [[127, 0, 0, 1], [127, 0, 1, 9]] {
        let answer = answered(from(ip, addr).await, LINE).await;
        assert!(answer.starts_with(CLIENT), "{answer}");
    }
    // Also one that says nothing.
    let mut silent = from([127, 0, 0, 9], addr).await;
    assert_eq!(soon(silent.read(&mut [0])).await.unwrap(), 0);
    for ip in [[127, 0, 0, 9], [127, 0, 2, 1]] {
        assert_eq!(answered(from(ip, addr).await, LINE).await, "");
    }
    until("all are counted", || handle.preambles().failed() == 3).await;
    assert_eq!((handle.preambles().passed(), handle.counts().accepted()), (2, 2));
}

#[tokio::test]
async fn an_ipv4_proxy_is_trusted_as_such_on_an_ipv6_socket() {
    let (_handle, addr) = serve_text("proxy+tcp:[::]:0?trust=127.0.0.0/8").await;
    let answer =
        answered(from([127, 0, 0, 9], (Ipv4Addr::LOCALHOST, addr.port()).into()).await, LINE).await;
    assert!(
        answer.starts_with(CLIENT) && answer.contains("Tcp(127.0.0.9:") && !answer.contains("ffff"),
        "{answer}"
    );
}

#[tokio::test]
async fn without_a_proxy_a_header_is_data_like_any_other() {
    let (_handle, addr) = serve_text("tcp:127.0.0.1:0").await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let own = stream.local_addr().unwrap();
    let text = str::from_utf8(LINE).unwrap();
    assert_eq!(
        answered(stream, LINE).await,
        format!("tcp:{own} false via None false tls false at tcp:{addr}\r\n{text}")
    );
}

#[tokio::test]
async fn the_credentials_of_a_unix_socket_are_the_proxys() {
    let folder = Folder::new();
    let path = folder.join("x.sock");
    let (_handle, _) = serve(Endpoint::unix(&path).mode(0o600).proxied([])).await;
    let client = UnixStream::connect(&path).await.unwrap();
    let answer = answered(client, LINE).await;
    assert!(
        answer.starts_with(&format!("{CLIENT} false via ")) && answer.contains(" true tls false"),
        "{answer}"
    );
    // A connection of the proxy's own is its own.
    let answer =
        answered(UnixStream::connect(&path).await.unwrap(), &Header::local().to_v2()).await;
    assert!(
        answer.starts_with("unix: true via ") && answer.contains(" true tls false"),
        "{answer}"
    );
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let any = "proxy+tls:127.0.0.1:0?cert=CERT&key=KEY&trust=127.0.0.1";
    localhost(&ca, &folder);
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let text = any.replace("CERT", encrypted::text(&cert)).replace("KEY", encrypted::text(&key));
    let (handle, addr) = serve_text(&text).await;
    let client = Client::new(&ca, "localhost");

    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(LINE).await.unwrap();
    let answer = answered(client.shake(stream).await.unwrap(), b"hello\r\n").await;
    assert!(
        answer.starts_with(CLIENT) && answer.contains(&format!("tls true at tcp:{addr}")),
        "{answer}"
    );
    assert!(answer.ends_with("\r\nhello\r\n"), "{answer}");

    // Inside TLS, where some expect it, there is none.
    assert!(client.tcp(addr).await.is_err());
    // Nor is there a connection without TLS.
    assert!(
        !answered(TcpStream::connect(addr).await.unwrap(), &[LINE, b"hello\r\n"].concat())
            .await
            .contains("tcp:")
    );
    until("both are counted", || handle.preambles().failed() == 2).await;
    assert_eq!(handle.counts().accepted(), 1);
}

#[tokio::test]
async fn a_header_and_the_begin_of_tls_may_come_in_one_segment() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (endpoint, connector) = ropewalk::memory::endpoint();
    let (_handle, _) = serve(endpoint.proxied([]).tls(localhost(&ca, &folder))).await;
    for header in
        [LINE.to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), Header::local().with_checksum().to_v2()]
    {
        let stream = Prefixed { head: header, inner: connector.connect().await.unwrap() };
        let answer =
            answered(Client::new(&ca, "localhost").shake(stream).await.unwrap(), b"hello\r\n")
                .await;
        assert!(answer.contains("tls true") && answer.ends_with("\r\nhello\r\n"), "{answer}");
    }
}

/// A stream whose first write has something before it.
struct Prefixed<S> {
    head: Vec<u8>,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let head = std::mem::take(&mut self.head);
        let both = [&head, buf].concat();
        // An empty stream in memory takes it whole.
        Pin::new(&mut self.inner).poll_write(cx, &both).map_ok(|n| n - head.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn header_and_handshake_have_a_deadline_each() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (endpoint, connector) = ropewalk::memory::endpoint();
    let (handle, _) = serve(endpoint.proxied([]).tls(localhost(&ca, &folder))).await;
    let began = tokio::time::Instant::now();
    let mut client = connector.connect().await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    client.write_all(LINE).await.unwrap();
    drop(client.read_to_end(&mut Vec::new()).await);
    assert_eq!(began.elapsed().as_secs(), 14, "4 s of its 5, then 10 s for TLS");
    assert_eq!(handle.preambles().timed_out(), 1);
}
