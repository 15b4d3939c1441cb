//! A server binds all or nothing, begins and ends in order, and its books balance.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use harness::{
    Gauge, Hold, LONG, Running, TempPath, ask, assert_balanced, assert_cut, assert_reasons, assert_reset, audit,
    expect, on_memory, on_tcp, reset, rest, settle, shout, until,
};
use ropewalk::memory::{self, Connector};
use ropewalk::{
    Addr, CloseReason, Connection, ConnectionLimitLayer, Endpoint, EndpointError, Error, Handle, Io, Lifecycle, Lines,
    Listener, Peer, RawBytes, Reply, Result, Server, Session, Stream, framed, reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::{Layer, Service};

mod harness;

/// What happened, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn note(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

// ---- endpoints ----

#[tokio::test]
async fn endpoints_of_mixed_kinds_serve_at_once() {
    let path = TempPath::new();
    let (endpoint, connector) = memory::endpoint();
    let which = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            s.reply(format!("{} on {}", String::from_utf8_lossy(&line), s.listener()))?;
        }
        Ok(())
    });
    let server = Server::new().listen("tcp:127.0.0.1:0").listen(path.endpoint()).listen(endpoint).listen("tcp:[::1]:0");
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
    let serve = Server::new().listen("tcp:127.0.0.1:0").listen(path.endpoint()).serve(Hold::default());
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
    let serve = Server::new().listen("tcp:127.0.0.1:0").serve(Hold::default()).bind().await.unwrap();
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
    let serve = Server::new().listen(free).listen(path.endpoint()).listen(&*busy).serve(Hold::default());
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
    let serve = Server::new().listen(endpoint.clone()).listen(path.endpoint()).listen("tcp:127.0.0.1:99999");
    let error = serve.serve(Hold::default()).bind().await.unwrap_err();

    assert_eq!(error.downcast_ref::<EndpointError>().unwrap().input(), "tcp:127.0.0.1:99999");
    endpoint.bind().await.expect("an endpoint that can be bound once was not bound");
}

#[tokio::test]
async fn a_server_without_an_endpoint_says_what_to_do() {
    let error = Server::new().serve(Hold::default()).await.unwrap_err();
    assert!(error.to_string().contains("Server::listen(\"tcp:"), "{error}");
}

/// A duplex as a foreign transport would be.
struct Pipe(DuplexStream);

impl Io for Pipe {}

impl tokio::io::AsyncRead for Pipe {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Pipe {
    fn poll_write(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A listener of connections that come through a channel.
struct Foreign(mpsc::UnboundedReceiver<DuplexStream>, Arc<AtomicBool>);

impl Listener for Foreign {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(pipe)) => Poll::Ready((Stream::boxed(Pipe(pipe)), Peer::new(Addr::Memory))),
            _ => Poll::Pending,
        }
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_listener_serves_and_is_closed_when_the_server_drains() {
    let (connect, arrivals) = mpsc::unbounded_channel();
    let closed = Arc::new(AtomicBool::new(false));
    let endpoint = Endpoint::from_listener(Foreign(arrivals, Arc::clone(&closed)));
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

// ---- lifecycles ----

/// Notes its start and its stop; fails where told to.
struct Noted {
    name: &'static str,
    events: Events,
    handle: Arc<OnceLock<Handle>>,
    fails_to_start: bool,
    fails_to_stop: bool,
}

impl Noted {
    fn new(name: &'static str, events: &Events) -> Self {
        let handle = Arc::new(OnceLock::new());
        Self { name, events: events.clone(), handle, fails_to_start: false, fails_to_stop: false }
    }
}

impl Lifecycle for Noted {
    async fn start(&mut self) -> Result {
        if let Some(handle) = self.handle.get() {
            assert_eq!((handle.addresses().len(), handle.counts().accepted()), (1, 0), "bound, and nothing accepted");
        }
        settle().await;
        if self.fails_to_start {
            return Err(Error::other(format!("{} does not start", self.name)));
        }
        self.events.note(format!("start {}", self.name));
        Ok(())
    }

    async fn stop(&mut self) -> Result {
        if let Some(handle) = self.handle.get() {
            assert_eq!(handle.counts().active(), 0, "the last connection has gone");
        }
        settle().await;
        self.events.note(format!("stop {}", self.name));
        if self.fails_to_stop { Err(Error::other(format!("{} does not stop", self.name))) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn lifecycles_start_in_order_before_the_first_accept_and_stop_in_reverse_after_the_last_connection() {
    let events = Events::default();
    let (endpoint, connector) = memory::endpoint();
    // It waits in the queue before anything starts.
    let mut client = connector.connect().await.unwrap();
    let handle = Arc::new(OnceLock::new());
    let noted = |name| Noted { handle: Arc::clone(&handle), ..Noted::new(name, &events) };
    let noting = events.clone();
    let service = session(Lines::lf(), move |mut s: Session<Lines>| {
        let events = noting.clone();
        async move {
            events.note("connection begins");
            while s.next().await?.is_some() {}
            s.reply("bye")?;
            s.close().await?;
            events.note("connection ends");
            Ok(())
        }
    });
    let listening = events.clone();
    let serve = Server::new()
        .manage(noted("first"))
        .listen(endpoint)
        .manage(noted("second"))
        .on_listening(move |addresses| listening.note(format!("listening on {}", addresses[0])))
        .manage(noted("third"))
        .serve(service);
    handle.set(serve.handle()).unwrap();
    let server = Running::start(serve).await;

    server.until("it is accepted", |counts| counts.active() == 1).await;
    let client = tokio::spawn(async move { rest(&mut client).await });
    server.end().await;
    assert_eq!(client.await.unwrap(), "bye\n");
    let expected = [
        "start first",
        "start second",
        "start third",
        "listening on memory:",
        "connection begins",
        "connection ends",
        "stop third",
        "stop second",
        "stop first",
    ];
    assert_eq!(events.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_stops_those_before_it_in_reverse_and_ends_the_server() {
    let events = Events::default();
    let (endpoint, connector) = memory::endpoint();
    let mut client = connector.connect().await.unwrap();
    let listening = events.clone();
    let serve = Server::new()
        .listen(endpoint)
        .manage(Noted::new("first", &events))
        // What stopping says besides is not what is reported.
        .manage(Noted { fails_to_stop: true, ..Noted::new("second", &events) })
        .manage(Noted { fails_to_start: true, ..Noted::new("third", &events) })
        .manage(Noted::new("fourth", &events))
        .on_listening(move |_| listening.note("listening"))
        .serve(Hold::default());
    let server = Running::start(serve).await;

    let (counts, error) = server.fails().await;
    assert_eq!(error.to_string(), "third does not start");
    assert_eq!(events.all(), ["start first", "start second", "stop second", "stop first"]);
    assert_eq!(counts.accepted(), 0);
    assert_reset(&mut client).await;
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_fails_does_not_keep_the_others_from_stopping_and_is_reported() {
    let events = Events::default();
    let server = Server::new()
        .manage(Noted::new("first", &events))
        .manage(Noted { fails_to_stop: true, ..Noted::new("second", &events) })
        .manage(Noted { fails_to_stop: true, ..Noted::new("third", &events) });
    let (server, _connector) = on_memory(server, Hold::default()).await;
    server.handle().drain(LONG);
    let (_, error) = server.fails().await;
    assert_eq!(error.to_string(), "third does not stop", "the first one that failed");
    let all = ["start first", "start second", "start third", "stop third", "stop second", "stop first"];
    assert_eq!(events.all(), all);
}

#[tokio::test(start_paused = true)]
async fn on_listening_is_called_once_with_the_addresses() {
    let (say, mut said) = mpsc::unbounded_channel();
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen(endpoint)
        .on_listening(move |addresses| say.send(addresses.to_vec()).unwrap())
        .serve(Hold::default());
    let handle = server.handle();
    let server = Running::start(server).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "x", "x").await;
    drop(client);
    server.until("it has closed", |counts| counts.active() == 0).await;
    server.end().await;
    assert_eq!(said.recv().await.as_deref(), Some(handle.addresses()));
    assert_eq!(said.recv().await, None);
}

// ---- how many ----

#[tokio::test]
async fn max_connections_leaves_the_rest_in_the_backlog_and_is_live() {
    let hold = Hold::default();
    let gauge = hold.0.clone();
    let server = on_tcp(Server::new().max_connections(2), hold).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(server.connect().await);
    }
    let (mut first, mut third) = (clients.remove(0), clients.remove(1));
    ask(&mut first, "1", "1").await;
    ask(&mut clients[0], "2", "2").await;
    third.write_all(b"3").await.unwrap();
    settle().await;
    assert_eq!((server.counts().accepted(), gauge.now()), (2, 2), "the others are not even accepted");

    drop(first);
    expect(&mut third, "3").await;
    assert_eq!(server.handle().max_connections(), 2);
    server.handle().set_max_connections(5);
    server.until("all are accepted", |counts| counts.accepted() == 6).await;
    assert_eq!(server.counts().active(), 5);

    // Lowered, it ends nobody.
    server.handle().set_max_connections(1);
    let mut late = server.connect().await;
    for client in &mut clients {
        ask(client, "still here", "still here").await;
    }
    assert_eq!(server.counts().accepted(), 6);
    drop((clients, third));
    ask(&mut late, "late", "late").await;
    assert_eq!((gauge.most(), server.counts().active()), (5, 1));
    drop(late);
    server.until("all have closed", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_with_a_long_queue_does_not_shut_out_the_others() {
    let (busy, to_busy) = memory::endpoint();
    let (quiet, to_quiet) = memory::endpoint();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(to_busy.connect().await.unwrap());
    }
    let mut client = to_quiet.connect().await.unwrap();
    let server = Server::new().listen(busy).listen(quiet).max_connections(2).serve(Hold::default());
    let server = Running::start(server).await;
    ask(&mut client, "x", "x").await;
    assert_eq!(server.counts().accepted(), 2);
    drop((crowd, client));
    server.until("all are gone", |counts| counts.closed_in_all() == 101).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_servers_in_one_process_have_counts_of_their_own() {
    let (one, to_one) = on_memory(Server::new(), Hold::default()).await;
    let (two, to_two) = on_memory(Server::new().max_connections(3), Hold::default()).await;
    let mut clients = Vec::new();
    for connector in [&to_one, &to_two, &to_two] {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "x", "x").await;
        clients.push(client);
    }
    assert_eq!((one.counts().active(), two.counts().active()), (1, 2));
    assert_eq!(two.handle().max_connections(), 3);
    assert_ne!(one.handle().max_connections(), 3);
    one.handle().stop();
    assert_eq!(one.over().await.accepted(), 1);
    assert_cut(&mut clients[0]).await;
    ask(&mut clients[1], "the other goes on", "the other goes on").await;
    drop(clients);
    two.until("all have closed", |counts| counts.active() == 0).await;
    assert_eq!(two.end().await.accepted(), 2);
}

// ---- the service ----

#[tokio::test(start_paused = true)]
async fn dropping_the_server_aborts_its_connections_and_ends_it() {
    let (server, connector) = on_memory(Server::new(), Hold::default()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "x", "x").await;
        clients.push(client);
    }
    let handle = server.handle().clone();
    assert_reasons(&server.cut_off().await, &[(CloseReason::Aborted, 20)]);
    for mut client in clients {
        assert_cut(&mut client).await;
    }
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    timeout(LONG, handle.ended()).await.expect("a server that was dropped has ended");
}

/// Ready so many times, then failed for ever; after each, it holds its connection.
struct ReadyFor {
    left: usize,
    then: Option<&'static str>,
    inner: Hold,
}

impl Service<Connection> for ReadyFor {
    type Response = ();
    type Error = Error;
    type Future = <Hold as Service<Connection>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        match (self.left, self.then) {
            (1.., _) => Poll::Ready(Ok(())),
            (0, Some(error)) => Poll::Ready(Err(Error::other(error))),
            (0, None) => Poll::Pending,
        }
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        self.left -= 1;
        self.inner.call(connection)
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_be_ready_ends_the_server_after_its_connections() {
    let service = ReadyFor { left: 2, then: Some("out of everything"), inner: Hold::default() };
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut first = connector.connect().await.unwrap();
    let mut second = connector.connect().await.unwrap();
    server.until("two are accepted", |counts| counts.accepted() == 2).await;
    settle().await;
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    ask(&mut first, "still", "still").await;
    ask(&mut second, "served", "served").await;
    drop(first);
    settle().await;
    assert!(!server.is_over(), "one is left");
    assert!(server.handle().is_draining());
    drop(second);
    let (counts, error) = server.fails().await;
    assert_eq!(error.to_string(), "out of everything");
    assert_reasons(&counts, &[(CloseReason::Drained, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_in_poll_ready_ends_the_server_with_an_error() {
    #[derive(Clone)]
    struct Panics;
    impl Service<Connection> for Panics {
        type Response = ();
        type Error = Error;
        type Future = std::future::Ready<Result>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
            panic!("no connection is to blame")
        }
        fn call(&mut self, _: Connection) -> Self::Future {
            unreachable!()
        }
    }
    let (server, _connector) = on_memory(Server::new(), Panics).await;
    let (_, error) = server.fails().await;
    assert!(error.to_string().contains("no connection is to blame"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_does_not_keep_the_server_from_draining() {
    for left in [0, 1] {
        let service = ReadyFor { left, then: None, inner: Hold::default() };
        let (server, connector) = on_memory(Server::new(), service).await;
        let mut clients = [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
        settle().await;
        assert_eq!(server.counts().accepted(), left as u64);
        if left == 1 {
            ask(&mut clients[0], "x", "x").await;
            clients[0].shutdown().await.unwrap();
        }
        let start = tokio::time::Instant::now();
        server.end().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_reset(&mut clients[1]).await;
    }
}

/// Asserts what tower asks of callers: ready before each call, and on the very service that is called.
struct Strict(bool);

impl Service<Connection> for Strict {
    type Response = ();
    type Error = Error;
    type Future = std::future::Ready<Result>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Connection) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "called without having been readied");
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_is_readied_before_every_call() {
    let (server, connector) = on_memory(Server::new(), Strict(false)).await;
    for _ in 0..50 {
        connector.connect().await.unwrap();
    }
    server.until("all were served", |counts| counts.closed_in_all() == 50).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 50)]);
}

#[tokio::test(start_paused = true)]
async fn the_first_layer_added_sees_a_connection_first() {
    struct Noting<S>(S, Events, &'static str);
    impl<S: Service<Connection>> Service<Connection> for Noting<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.0.poll_ready(cx)
        }
        fn call(&mut self, connection: Connection) -> S::Future {
            self.1.note(self.2);
            self.0.call(connection)
        }
    }
    struct NotingLayer(Events, &'static str);
    impl<S> Layer<S> for NotingLayer {
        type Service = Noting<S>;
        fn layer(&self, inner: S) -> Noting<S> {
            Noting(inner, self.0.clone(), self.1)
        }
    }
    let events = Events::default();
    let noting = |name| NotingLayer(events.clone(), name);
    let server = Server::new().layer(noting("outer")).layer(noting("middle")).layer(noting("inner"));
    let (server, connector) = on_memory(server, Strict(false)).await;
    connector.connect().await.unwrap();
    server.until("it was served", |counts| counts.closed_in_all() == 1).await;
    assert_eq!(events.all(), ["outer", "middle", "inner"]);
    server.end().await;
}

// ---- the handle ----

#[tokio::test(start_paused = true)]
async fn a_handle_outlives_its_server() {
    let (server, connector) = on_memory(Server::new(), Hold::default()).await;
    let handle = server.handle().clone();
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "x", "x").await;
    drop(client);
    server.until("it has closed", |counts| counts.active() == 0).await;
    server.end().await;
    handle.drain(LONG);
    handle.stop();
    handle.set_max_connections(1);
    timeout(LONG, handle.ended()).await.expect("it has ended, and stays so");
    assert_eq!(handle.counts().accepted(), 1);
    assert_eq!(handle.addresses(), [Addr::Memory]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_ran_has_ended_when_it_is_dropped() {
    let (endpoint, connector) = memory::endpoint();
    let unbound = Server::new().listen(endpoint.clone()).serve(Hold::default());
    let handle = unbound.handle();
    drop(unbound);
    timeout(LONG, handle.ended()).await.expect("dropped before it was bound");

    let bound = Server::new().listen(endpoint).serve(Hold::default()).bind().await.unwrap();
    let handle = bound.handle();
    let mut client = connector.connect().await.unwrap();
    drop(bound);
    timeout(LONG, handle.ended()).await.expect("dropped before it served");
    assert_reset(&mut client).await;

    let failed = Server::new().listen("tcp:nowhere").serve(Hold::default());
    let handle = failed.handle();
    failed.await.unwrap_err();
    timeout(LONG, handle.ended()).await.expect("it could not be bound");
    audit(&handle);
}

// ---- the books ----

/// A connection that ends for each reason, one after the other.
async fn count_one(reason: CloseReason, server: Running, connector: Connector, act: impl AsyncFnOnce(Connector)) {
    act(connector).await;
    server.until("it has closed", |counts| counts.active() == 0 && counts.accepted() > 0).await;
    let counts = server.end().await;
    assert_eq!(counts.closed(reason), 1, "{counts:?}");
    assert_eq!(counts.closed_in_all(), 1, "{counts:?}");
}

fn shouter() -> impl ropewalk::ConnectionService + Service<Connection, Response = (), Error = Error, Future: Send> {
    framed(Lines::crlf().max(16), reply_fn(|line: Bytes| shout(&line)))
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_is_counted_as_done() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    count_one(CloseReason::Done, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\r\n", "A\r\n").await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_closes_is_counted_as_done() {
    let bye = framed(Lines::crlf(), reply_fn(|_: Bytes| Reply::one("bye").then_close()));
    let (server, connector) = on_memory(Server::new(), bye).await;
    count_one(CloseReason::Done, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "quit\r\nnever answered\r\n", "bye\r\n").await;
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_resets_is_counted_as_peer_reset() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    count_one(CloseReason::PeerReset, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\r\n", "A\r\n").await;
        client.abort();
    })
    .await;
}

#[tokio::test]
async fn a_tcp_peer_that_resets_is_counted_as_peer_reset_also_while_a_call_is_pending() {
    let gauge = Gauge::default();
    let inside = gauge.clone();
    let stuck = framed(
        Lines::crlf(),
        service_fn(move |_: Bytes| {
            let inside = inside.enter();
            async move {
                pending::<()>().await;
                drop(inside);
                Ok("never")
            }
        }),
    );
    let server = on_tcp(Server::new(), stuck).await;
    let mut client = server.connect().await;
    client.write_all(b"a\r\n").await.unwrap();
    until("the call is under way", || gauge.now() == 1).await;
    reset(client);
    until("the call is dropped", || gauge.now() == 0).await;
    server.until("it is counted", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::PeerReset, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_aborts_is_counted_as_aborted() {
    let abort = session(Lines::lf(), async |s: Session<Lines>| {
        s.abort();
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), abort).await;
    count_one(CloseReason::Aborted, server, connector, async |connector: Connector| {
        assert_reset(&mut connector.connect().await.unwrap()).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_frame_are_counted_as_a_codec_error() {
    for bytes in ["much too long for a line of sixteen\r\n", "cut in the mid"] {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        count_one(CloseReason::CodecError, server, connector, async |connector: Connector| {
            let mut client = connector.connect().await.unwrap();
            client.write_all(bytes.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(rest(&mut client).await, "");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_encoded_is_counted_as_a_codec_error() {
    let smuggle = framed(Lines::crlf(), reply_fn(|_: Bytes| "one\r\ntwo"));
    let (server, connector) = on_memory(Server::new(), smuggle).await;
    count_one(CloseReason::CodecError, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_counted_as_a_service_error() {
    let fail = framed(Lines::crlf(), service_fn(async |_: Bytes| Err::<Bytes, _>(Error::other("no"))));
    let (server, connector) = on_memory(Server::new(), fail).await;
    count_one(CloseReason::ServiceError, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_io_error_of_the_application_is_no_peer_reset() {
    // Some backend's connection broke, not this one.
    let fail = service_fn(async |_: Bytes| Err::<Bytes, _>(Error::from(io::Error::from(io::ErrorKind::BrokenPipe))));
    let (server, connector) = on_memory(Server::new(), framed(Lines::crlf(), fail)).await;
    count_one(CloseReason::ServiceError, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_as_panic() {
    let fall = framed(Lines::crlf(), reply_fn(|_: Bytes| -> Bytes { panic!("on purpose") }));
    let (server, connector) = on_memory(Server::new(), fall).await;
    count_one(CloseReason::Panic, server, connector, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\r\n").await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_connection_is_counted_as_drained() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\r\n", "A\r\n").await;
    assert_reasons(&server.end().await, &[(CloseReason::Drained, 1)]);
    assert_eq!(rest(&mut client).await, "");
}

#[test]
fn connections_dropped_with_their_runtime_are_counted_as_aborted() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (handle, mut client) = runtime.block_on(async {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\r\n", "A\r\n").await;
        (server.handle().clone(), client)
    });
    drop(runtime);
    assert_reasons(&audit(&handle), &[(CloseReason::Aborted, 1)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_cut(&mut client).await;
        handle.ended().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_counted_as_a_timeout() {
    let service = framed(RawBytes, reply_fn(|_: Bytes| Bytes::from(vec![b'x'; 1 << 20])));
    let service = service.write_stall(Duration::from_secs(7));
    let (server, connector) = on_memory(Server::new(), service).await;
    count_one(CloseReason::Timeout, server, connector, async |connector: Connector| {
        let start = tokio::time::Instant::now();
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a").await.unwrap();
        // It reads nothing, and hears of the end when it writes.
        while client.write_all(&[0; 4096]).await.is_ok() {}
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_kind_and_nobody_else_is() {
    let limit = ConnectionLimitLayer::new(1).refuse_with("full\r\n");
    let (server, connector) = on_memory(Server::new().layer(limit), shouter()).await;
    let mut first = connector.connect().await.unwrap();
    ask(&mut first, "a\r\n", "A\r\n").await;
    // They hear the text and do not close: their refusals last.
    let mut refused = Vec::new();
    for _ in 0..ropewalk::limit::MAX_REFUSALS + 3 {
        let mut client = connector.connect().await.unwrap();
        assert_eq!(rest(&mut client).await, "full\r\n");
        refused.push(client);
    }
    let counts = server.counts();
    assert_eq!((counts.closed(CloseReason::RefusedAtOnce), counts.closed(CloseReason::Refused)), (3, 0));
    assert_balanced(&counts);
    drop(refused);
    server.until("the refusals are over", |counts| counts.active() == 1).await;
    drop(first);
    server.until("the first is gone", |counts| counts.active() == 0).await;
    let expected = [(CloseReason::Done, 1), (CloseReason::Refused, 256), (CloseReason::RefusedAtOnce, 3)];
    assert_reasons(&server.end().await, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_balance_at_every_moment_of_a_storm() {
    let service = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            match &line[..] {
                b"fail" => return Err(Error::other("as asked")),
                b"fall" => panic!("as asked"),
                b"abort" => {
                    s.abort();
                    return Ok(());
                }
                _ => s.reply(line)?,
            }
        }
        Ok(())
    });
    let server = on_tcp(Server::new(), service).await;
    let over = Arc::new(AtomicBool::new(false));
    let sampler = {
        let (handle, over) = (server.handle().clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut last = 0;
            while !over.load(Ordering::SeqCst) {
                let counts = handle.counts();
                assert_balanced(&counts);
                assert!(counts.accepted() >= last, "it never goes back");
                last = counts.accepted();
                std::thread::yield_now();
            }
        })
    };
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for task in 0..8_usize {
        let handle = server.handle().clone();
        clients.spawn(async move {
            for i in 0..125_usize {
                let mut client = TcpStream::connect(addr).await.unwrap();
                assert_balanced(&handle.counts());
                ask(&mut client, "hello\n", "hello\n").await;
                assert!(handle.counts().active() > 0, "this one is open");
                match (task + i) % 5 {
                    0 => client.write_all(b"fail\n").await.unwrap(),
                    1 => client.write_all(b"fall\n").await.unwrap(),
                    2 => client.write_all(b"abort\n").await.unwrap(),
                    3 => {
                        reset(client);
                        continue;
                    }
                    _ => client.shutdown().await.unwrap(),
                }
                // Ends or breaks; either way it ends.
                drop(client.read_to_end(&mut Vec::new()).await);
            }
        });
    }
    clients.join_all().await;
    server.until("all are gone", |counts| counts.active() == 0).await;
    over.store(true, Ordering::SeqCst);
    sampler.join().expect("they balanced");
    let expected = [
        (CloseReason::Done, 200),
        (CloseReason::PeerReset, 200),
        (CloseReason::Aborted, 200),
        (CloseReason::ServiceError, 200),
        (CloseReason::Panic, 200),
    ];
    assert_reasons(&server.end().await, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_while_the_server_drains_are_counted_once() {
    let go = Arc::new(Notify::new());
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut clients = JoinSet::new();
    for i in 0..300 {
        let (go, connector) = (Arc::clone(&go), connector.clone());
        let (told, ready) = oneshot::channel();
        clients.spawn(async move {
            let mut client = connector.connect().await.unwrap();
            ask(&mut client, "a\r\n", "A\r\n").await;
            let go = go.notified();
            told.send(()).unwrap();
            go.await;
            match i % 3 {
                0 => drop(client),
                1 => client.abort(),
                _ => drop(client.read_to_end(&mut Vec::new()).await),
            }
        });
        ready.await.unwrap();
    }
    until("all are connected", || server.counts().active() == 300).await;
    // The last of them may not yet wait when it has said so; told twice, none is missed.
    go.notify_waiters();
    server.handle().drain(LONG);
    until("all have heard", || {
        go.notify_waiters();
        server.counts().active() == 0
    })
    .await;
    clients.join_all().await;
    assert_eq!(server.over().await.accepted(), 300);
}
