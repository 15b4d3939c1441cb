//! A connection over any transport.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::{Addr, Connection, Peer, Stream, TlsInfo, TlsVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, duplex, join, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::coop;
use tokio::time::advance;

#[test]
fn a_peers_socket_path_can_not_break_the_line_it_is_shown_in() {
    let path = Path::new("/tmp/\n\x1b[2J\u{202e}why?");
    let addr = Addr::Unix(Some(path.into()));
    assert_eq!(addr.to_string(), "unix:/tmp/%0A%1B[2J\u{202e}why%3F");
    let shown = format!("{:?}", Connection::new(Stream::from_io(duplex(1).0), Peer::new(addr)));
    assert!(shown.contains(r"peer: unix:/tmp/%0A%1B[2J\xe2\x80\xaewhy%3F"), "{shown}");
}

#[tokio::test]
async fn parameters_of_a_later_handshake_are_known_and_the_first_handshake_stands() {
    let connection = Connection::new(Stream::from_io(duplex(1).0), Peer::new(Addr::Memory));
    assert!(connection.tls().is_none() && connection.peer().certificates().is_empty());
    let settled =
        TlsInfo::new(TlsVersion::Tls13).with_server_name("a.example").with_alpn(*b"echo/1");
    connection.set_tls(settled.clone().with_certificates(vec![vec![1, 2, 3]]));
    connection.set_tls(TlsInfo::new(TlsVersion::Tls12));
    let tls = connection.tls().unwrap();
    assert_eq!(
        (tls.version(), tls.server_name(), tls.alpn()),
        (TlsVersion::Tls13, Some("a.example"), Some(&b"echo/1"[..]))
    );
    assert_eq!(connection.peer().certificates(), [vec![1, 2, 3]]);
    assert!(settled.certificates().is_empty() && settled != *tls);
    assert_eq!(connection.peer().addr(), &Addr::Memory);
}

#[tokio::test]
async fn a_stream_that_is_replaced_keeps_the_connections_address_and_its_handles() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let _client = TcpStream::connect(addr).await.unwrap();
    let (stream, from) = listener.accept().await.unwrap();
    let mut connection = Connection::new(stream, Peer::new(from));
    let stats = connection.stats();
    let (ours, mut theirs) = duplex(64);
    let before = connection.replace_stream(Stream::from_io(ours));
    assert!(matches!(before, Stream::Tcp(_)) && matches!(connection.stream(), Stream::Boxed(_)));
    assert_eq!(connection.local(), Addr::Tcp(addr));
    theirs.write_all(b"hello").await.unwrap();
    connection.read_exact(&mut [0; 5]).await.unwrap();
    assert_eq!(stats.bytes_in(), 5);
}

/// There is always more to read, and never anything in it, as of a peer that sends empty records of
/// TLS.
struct Empty;

impl AsyncRead for Empty {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_lets_the_task_rest_holds_up_no_close() {
    let connection = Connection::new(Stream::from_io(join(Empty, sink())), Peer::new(Addr::Memory));
    let closing = tokio::spawn(connection.close());
    for _ in 0..4 {
        advance(Duration::from_secs(1)).await;
    }
    assert!(closing.is_finished());
}
