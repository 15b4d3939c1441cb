//! A server binds all its endpoints or none, and serves on them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use ropewalk::connection::Stream;
use ropewalk::endpoint::{EndpointError, Listener};
use ropewalk::memory;
use ropewalk::{
    Addr, CloseReason, Endpoint, Lines, Peer, Server, Session, framed, reply_fn, session,
};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::harness::{Hold, Running, TempPath, ask, assert_reasons, audit, expect, rest, shout};
use crate::transports::Foreign;

#[tokio::test]
async fn endpoints_of_mixed_kinds_serve_at_once() {
    let path = TempPath::new();
    let (endpoint, connector) = memory::endpoint();
    let which = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            s.feed(format!("{} on {}", String::from_utf8_lossy(&line), s.listener()))?;
        }
        Ok(())
    });
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen(path.endpoint())
        .listen(endpoint)
        .listen("tcp:[::1]:0");
    let server = Running::start(server.serve(which)).await;

    let mut tcp = server.connect().await;
    let mut unix = UnixStream::connect(path.path()).await.unwrap();
    let mut memory = connector.connect().await.unwrap();
    let mut tcp6 = TcpStream::connect(server.tcp_addr(3)).await.unwrap();
    for round in 0..3 {
        let request = format!("{round}\n");
        ask(&mut tcp, &request, &format!("{round} on 0\n")).await;
        ask(&mut unix, &request, &format!("{round} on 1\n")).await;
        ask(&mut memory, &request, &format!("{round} on 2\n")).await;
        ask(&mut tcp6, &request, &format!("{round} on 3\n")).await;
    }
    assert_eq!(server.counts().active(), 4);
    drop((tcp, unix, memory, tcp6));
    server.until("all have closed", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 4)]);
    assert!(!path.path().exists(), "the path goes with its listener");
}

#[tokio::test]
async fn port_0_is_resolved_in_the_addresses_of_the_handle() {
    let path = TempPath::new();
    let serve =
        Server::new().listen("tcp:127.0.0.1:0").listen(path.endpoint()).serve(Hold::default());
    let handle = serve.handle();
    assert!(handle.addresses().is_empty(), "nothing is bound yet");
    let server = Running::start(serve).await;

    let addresses = handle.addresses();
    assert_ne!(server.tcp_addr(0).port(), 0);
    assert_eq!(addresses[1], Addr::Unix(Some(Arc::from(path.path()))));
    assert_eq!(addresses.len(), 2);
    ask(&mut server.connect().await, "hello", "hello").await;
    server.until("it has closed", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn clients_may_connect_once_the_server_is_bound_and_before_it_serves() {
    let serve =
        Server::new().listen("tcp:127.0.0.1:0").serve(Hold::default()).bind().await.unwrap();
    let Addr::Tcp(addr) = serve.handle().addresses()[0] else { panic!("a TCP address") };
    let mut early = TcpStream::connect(addr).await.unwrap();
    early.write_all(b"early").await.unwrap();
    let server = Running::start(serve).await;
    expect(&mut early, "early").await;
    drop(early);
    server.until("it has closed", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn a_listener_that_cannot_bind_undoes_the_others() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = TempPath::new();
    let busy = format!("tcp:{}", taken.local_addr().unwrap());
    let serve =
        Server::new().listen(free).listen(path.endpoint()).listen(&*busy).serve(Hold::default());
    let handle = serve.handle();
    let error = serve.await.unwrap_err();

    assert!(error.to_string().contains(&busy), "it names the endpoint: {error}");
    assert!(handle.addresses().is_empty());
    drop(std::net::TcpListener::bind(free).expect("the port of the first is free again at once"));
    assert!(!path.path().exists(), "and the path of the second");
    audit(&handle);
}

#[tokio::test]
async fn a_bad_endpoint_string_is_refused_before_anything_listens() {
    let (endpoint, _connector) = memory::endpoint();
    let path = TempPath::new();
    let serve = Server::new()
        .listen(endpoint.clone())
        .listen(path.endpoint())
        .listen("tcp:127.0.0.1:99999");
    let error = serve.serve(Hold::default()).bind().await.unwrap_err();

    assert_eq!(error.downcast_ref::<EndpointError>().unwrap().input(), "tcp:127.0.0.1:99999");
    endpoint.bind().await.expect("an endpoint that can be bound once was not bound");
}

#[tokio::test]
async fn a_server_without_an_endpoint_names_the_fix() {
    let error = Server::new().serve(Hold::default()).await.unwrap_err();
    assert!(error.to_string().contains("Server::listen(\"tcp:"), "{error}");
}

/// A listener of connections that come through a channel.
struct Arrivals(mpsc::UnboundedReceiver<DuplexStream>, Arc<AtomicBool>);

impl Listener for Arrivals {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(pipe)) => {
                Poll::Ready((Stream::boxed(Foreign(pipe)), Peer::new(Addr::Memory)))
            }
            _ => Poll::Pending,
        }
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_listener_serves_and_is_closed_when_the_server_drains() {
    let (connect, arrivals) = mpsc::unbounded_channel();
    let closed = Arc::new(AtomicBool::new(false));
    let endpoint = Endpoint::from_listener(Arrivals(arrivals, Arc::clone(&closed)));
    let answer = framed(Lines::crlf(), reply_fn(|line: Bytes| shout(&line)));
    let server = Running::start(Server::new().listen(endpoint).serve(answer)).await;

    let mut clients = Vec::new();
    for i in 0..20 {
        let (mut ours, theirs) = duplex(64);
        connect.send(theirs).unwrap();
        ask(&mut ours, &format!("client {i}\r\n"), &format!("CLIENT {i}\r\n")).await;
        clients.push(ours);
    }
    assert_eq!(server.counts().active(), 20);
    assert!(!closed.load(Ordering::SeqCst));
    let counts = server.end().await;
    assert!(closed.load(Ordering::SeqCst));
    assert_reasons(&counts, &[(CloseReason::Drained, 20)]);
    for mut client in clients {
        assert_eq!(rest(&mut client).await, "");
    }
}
