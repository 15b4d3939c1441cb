//! Services that are chosen by the name that a client asks for, by the protocol that was agreed on,
//! and by the first bytes inside TLS.

use ropewalk::endpoint::Protocols;
use ropewalk::leaf::route;
use ropewalk::{
    Addr, ConnectionInfo, ConnectionService, Endpoint, Error, RawBytes, Result, Server, Session,
    TlsConfig, session,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::encrypted::{Ca, Client, Running, soon};

async fn says(mut s: Session<RawBytes>, name: &'static str) -> Result {
    let sent = s.next().await?.unwrap_or_default();
    s.feed(format!("{name} {}", sent.escape_ascii()))
}

fn named(name: &'static str) -> impl ConnectionService<Error = Error> + Clone {
    session(RawBytes, move |s| says(s, name))
}

async fn asked(mut stream: impl AsyncRead + AsyncWrite + Unpin, sent: &str) -> String {
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    said
}

#[tokio::test]
async fn a_service_is_chosen_by_the_name_and_by_the_protocol() {
    let ca = Ca::new();
    let issued = ca.issue(["a.example", "b.example"]);
    let tls = TlsConfig::pem(issued.cert, issued.key).alpn(["one/1", "two/1"]);
    let asks_for = |name: &'static str| {
        move |connection: &ConnectionInfo| {
            connection.tls().and_then(|tls| tls.server_name()) == Some(name)
        }
    };
    let speaks_two =
        |connection: &ConnectionInfo| connection.tls().and_then(|tls| tls.alpn()) == Some(b"two/1");
    let service = route(named("other"))
        .when(asks_for("a.example"), named("a"))
        .when(speaks_two, named("two"));
    let running = Running::tls(tls, service).await;
    for (name, protocols, service) in [
        ("a.example", &["two/1"][..], "a"),
        ("b.example", &["two/1"][..], "two"),
        ("b.example", &["one/1", "two/1"][..], "other"),
        ("b.example", &[][..], "other"),
    ] {
        let client = Client::new(&ca, name).alpn(protocols);
        let expected = format!("{service} hi");
        assert_eq!(asked(client.tcp(running.addr).await.unwrap(), "hi").await, expected);
        assert_eq!(asked(client.memory(&running.memory).await.unwrap(), "hi").await, expected);
    }
    running.end().await;
}

#[tokio::test]
async fn the_first_bytes_are_those_inside_tls_or_of_plain_text_on_the_same_port() {
    let ca = Ca::new();
    let issued = ca.issue(["localhost"]);
    let tls = TlsConfig::pem(issued.cert, issued.key).accept_plain(true);
    let endpoint = Endpoint::tcp(([127, 0, 0, 1], 0).into())
        .tls(tls)
        .recognize(Protocols::new().begins_with("ssh", "SSH-"));
    let is_ssh = |connection: &ConnectionInfo| connection.peer().recognized() == Some("ssh");
    let is_encrypted = |connection: &ConnectionInfo| connection.tls().is_some();
    let service = route(named("plain"))
        .when(move |connection| is_ssh(connection) && is_encrypted(connection), named("hidden ssh"))
        .when(is_ssh, named("ssh"))
        .when(is_encrypted, named("encrypted"));
    let server = Server::new().listen(endpoint).serve(service).bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let Addr::Tcp(address) = handle.addresses()[0] else { unreachable!("it is TCP") };
    let client = Client::new(&ca, "localhost");
    for (sent, hidden, open) in
        [("SSH-2.0", "hidden ssh SSH-", "ssh SSH-"), ("x", "encrypted x", "plain x")]
    {
        let said = asked(client.tcp(address).await.unwrap(), sent).await;
        assert!(said.starts_with(hidden), "{said}");
        let said = asked(TcpStream::connect(address).await.unwrap(), sent).await;
        assert!(said.starts_with(open), "{said}");
    }
    handle.stop();
    server.await.unwrap().unwrap();
}
