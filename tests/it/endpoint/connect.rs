//! Connections made to a remote, by any of its kinds, and a session on them.

use std::time::Duration;

use ropewalk::client::ConnectError;
use ropewalk::endpoint::Listener;
use ropewalk::proxy::{ParseStatus, Version, parse};
use ropewalk::{
    Addr, Bytes, Connection, Endpoint, Error, Lines, Remote, Server, Session, connect, framed,
    memory, reply_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{Running, soon};

/// A server that answers lines with themselves.
async fn echo(endpoint: Endpoint) -> Running {
    Running::start(
        Server::new().listen(endpoint).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line))),
    )
    .await
}

async fn answers(connection: Connection) {
    let mut s = Session::over(connection, Lines::lf());
    s.feed("hello").unwrap();
    assert_eq!(soon(s.next()).await.unwrap().unwrap(), "hello");
    s.close().await.unwrap();
}

fn refused(text: &str) -> String {
    text.parse::<Remote>().unwrap_err().to_string()
}

#[tokio::test]
async fn an_address_a_name_a_path_and_an_abstract_name_are_connected_to() {
    let tcp = echo("tcp:127.0.0.1:0".parse().unwrap()).await;
    let port = tcp.tcp_addr(0).port();
    answers(connect(tcp.tcp_addr(0)).await.unwrap()).await;
    answers(connect(format!("tcp:localhost:{port}")).await.unwrap()).await;
    answers(connect(format!("tcp:127.0.0.1:{port}?from=127.0.0.1")).await.unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let _unix = echo(Endpoint::unix(&path)).await;
    answers(connect(format!("unix:{}", path.display())).await.unwrap()).await;
    #[cfg(target_os = "linux")]
    {
        let name = format!("unix:@ropewalk-connect-{}", std::process::id());
        let _named = echo(name.parse().unwrap()).await;
        answers(connect(name).await.unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_in_memory_is_connected_to_by_its_connector() {
    let (endpoint, connector) = memory::endpoint();
    let _server = echo(endpoint).await;
    let connection = connect(&connector).await.unwrap();
    assert_eq!(connection.peer().addr(), &Addr::Memory);
    answers(connection).await;
    answers(connect(connector).await.unwrap()).await;
}

#[tokio::test]
async fn the_local_address_is_the_one_that_was_asked_for() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Remote::tcp(server.local_addr().unwrap()).from_ip("127.0.0.7".parse().unwrap());
    let (_connection, accepted) = tokio::join!(connect(to), server.accept());
    assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.7");
}

#[tokio::test]
async fn a_proxy_header_of_either_version_comes_before_all_else() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = server.local_addr().unwrap();
    for (option, version) in [("", Version::V2), ("?header=1", Version::V1)] {
        let remote = format!("proxy+tcp:{at}{option}");
        let (mut connection, accepted) =
            tokio::join!(async { connect(&remote).await.unwrap() }, server.accept());
        let (mut peer, from) = accepted.unwrap();
        connection.write_all(b"x").await.unwrap();
        drop(connection);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        let ParseStatus::Complete { header, len, .. } = parse(&bytes).unwrap() else {
            panic!("{bytes:?}")
        };
        assert_eq!((header.version(), &bytes[len..]), (version, &b"x"[..]));
        assert_eq!(header.source(), Some(&Addr::Tcp(from)));
        assert_eq!(header.destination(), Some(&Addr::Tcp(at)));
    }
}

#[tokio::test]
async fn an_unreachable_address_is_named_with_the_cause() {
    // Bound, and nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let remote = format!("tcp:{}", socket.local_addr().unwrap());
    let error = connect(&remote).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot connect to {remote}: ")), "{error}");
    let error = error.downcast_ref::<ConnectError>().unwrap();
    assert_eq!(
        (error.remote(), error.cause().kind()),
        (&*remote, std::io::ErrorKind::ConnectionRefused)
    );
    let error = connect("unix:/nowhere/at/all").await.unwrap_err();
    assert!(error.to_string().starts_with("cannot connect to unix:/nowhere/at/all: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_made_in_10_s_is_given_up() {
    let (_endpoint, connector) = memory::endpoint();
    // The queue is full, so one more waits.
    let waiting: Vec<_> = (0..1024).map(|_| connector.try_connect().unwrap()).collect();
    let began = tokio::time::Instant::now();
    let error = connect(connector).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert_eq!(error.to_string(), "cannot connect to memory:: the time to connect is over");
    drop(waiting);
}

#[test]
fn an_address_without_a_host_is_refused_with_a_valid_form() {
    assert!(refused("tcp:8007").contains("it has no address to connect to: write tcp:HOST:8007"));
    assert!(refused("tcp:127.0.0.1:0").contains("port 0 can't be connected to"));
    assert!(refused("systemd:web").contains("an inherited socket can't be connected to"));
    assert!(refused("fd:3").contains("an inherited socket can't be connected to"));
}

#[test]
fn the_options_of_a_listener_are_not_those_of_a_remote() {
    assert!(
        refused("tcp:a:1?backlog=3").contains(
            "the option \"backlog\" is unknown: the options of tcp: for a client are from"
        )
    );
    assert!(refused("unix:/x?mode=660").contains("unix: has no options for a client"));
    assert!(refused("proxy+tcp:a:1?trust=10.0.0.0/8").contains("for a client are from, header"));
    assert!(refused("tcp:a:1?from=here").contains("\"here\" is not an address"));
    assert!(refused("proxy+tcp:a:1?header=3").contains("write header=1 or header=2"));
    assert!(refused("tcp:a:1?from=::1&from=::1").contains("the option from is given twice"));
    assert!(refused("tcp:a:1?").contains("an option is missing"));
}

#[test]
fn a_remote_is_written_as_it_is_read() {
    for text in [
        "tcp:192.0.2.1:8007",
        "tcp:[2001:db8::1]:8007",
        "tcp:[fe80::1%eth0]:8007",
        "tcp:example.org:8007?from=192.0.2.7",
        "unix:/run/x.sock",
        "unix:@name",
        "proxy+tcp:example.org:1?from=192.0.2.7&header=1",
        "proxy+unix:/run/x.sock",
        "tls:example.org:8443",
        "tls:example.org:8443?ca=/roots.pem&name=other.example.org&cert=/a%26b&key=/k&alpn=a,b",
        "tls+unix:/run/x.sock?name=example.org",
        "proxy+tls:example.org:8443?header=1&ca=/roots.pem",
    ] {
        assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn the_queued_answers_of_a_dropped_session_arrive() {
    let (sender, mut lines) = mpsc::unbounded_channel();
    let (endpoint, connector) = memory::endpoint_with_capacity(4);
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let sender = sender.clone();
        async move {
            while let Some(line) = s.next().await? {
                drop(sender.send(line));
            }
            Ok(())
        }
    });
    let _server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
    let mut s = Session::over(connect(connector).await.unwrap(), Lines::lf());
    s.feed("longer than the transport holds").unwrap();
    assert!(!s.is_draining());
    drop(s);
    assert_eq!(soon(lines.recv()).await.unwrap(), "longer than the transport holds");
}

#[test]
fn outside_of_a_runtime_a_dropped_session_closes_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (endpoint, connector) = memory::endpoint();
    let (mut s, mut peer) = runtime.block_on(async {
        let mut listener = endpoint.bind().await.unwrap();
        let s = Session::over(connect(connector).await.unwrap(), Lines::lf());
        (s, std::future::poll_fn(|cx| Listener::poll_accept(&mut *listener, cx)).await.0)
    });
    s.feed("lost").unwrap();
    drop(s);
    runtime.block_on(async { assert_eq!(soon(peer.read(&mut [0; 8])).await.unwrap(), 0) });
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_a_session_are_its_own() {
    let (endpoint, connector) = memory::endpoint();
    let _server = echo(endpoint).await;
    let s = Session::over(connect(connector).await.unwrap(), Lines::lf());
    let mut s = s.raw_limit(4).write_limit(8).write_stall(Duration::from_secs(1));
    assert!(s.raw(5).await.unwrap_err().to_string().contains('4'));
    // Nothing is written before something is awaited, and the transport would take it: the limit is
    // tried, not waited for.
    s.feed("0123456789").unwrap();
    s.feed("0123456789").unwrap();
    assert_eq!(soon(s.next()).await.unwrap().unwrap(), "0123456789");
    drop(s);
}

#[tokio::test]
async fn a_wrong_string_is_an_error_of_connect() {
    let error: Error = connect("tcp:8007").await.unwrap_err();
    assert!(error.downcast_ref::<ropewalk::endpoint::EndpointError>().is_some());
}
