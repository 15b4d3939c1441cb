//! A panic in user code ends its own connection, and nothing else.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use harness::{ask, assert_cut, assert_reasons, on_memory, on_tcp, settle, shout, until};
use ropewalk::{
    CloseReason, CodecError, Connection, ConnectionLimitLayer, ConnectionService, Error, Lines, LogLayer, Peer, Reply,
    Result, Server, Session, framed, per_connection, reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::codec::{Decoder, Encoder};
use tower::{Layer, Service};

mod harness;

/// The number of the connection that panics; the one before it and the one after it do not.
const SECOND: usize = 1;

/// Runs a service of which the second connection panics, by itself or when it is sent `fall`. Its neighbours, one open
/// before and one after, lose no frame; its place comes back; it is counted once.
///
/// There are three places: were the second's lost, the last connection would be refused.
async fn ends_its_own_connection_only<S>(service: S)
where
    S: Service<Connection, Response = (), Error = Error, Future: Send + 'static> + Send + 'static,
{
    let limit = ConnectionLimitLayer::new(3).refuse_with("full\n");
    let (server, connector) = on_memory(Server::new().layer(limit.clone()).layer(LogLayer::new()), service).await;
    let mut before = connector.connect().await.unwrap();
    ask(&mut before, "first\n", "FIRST\n").await;
    // Half a frame, which must still be there afterwards.
    before.write_all(b"sec").await.unwrap();
    settle().await;
    let mut falls = connector.connect().await.unwrap();
    settle().await;
    let mut after = connector.connect().await.unwrap();
    ask(&mut after, "third\n", "THIRD\n").await;

    falls.write_all(b"fall\n").await.ok();
    drop(falls.read_to_end(&mut Vec::new()).await);
    server.until("it has ended", |counts| counts.active() == 2).await;
    assert_reasons(&server.counts(), &[(CloseReason::Panic, 1)]);
    assert_eq!(limit.active(), 2, "its place is free again");

    ask(&mut before, "ond\n", "SECOND\n").await;
    ask(&mut after, "fourth\n", "FOURTH\n").await;
    let mut new = connector.connect().await.unwrap();
    ask(&mut new, "fifth\n", "FIFTH\n").await;
    drop((before, after, new));
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_eq!((limit.active(), limit.available()), (0, 3));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 3), (CloseReason::Panic, 1)]);
}

/// Tells the connections of one server apart.
#[derive(Clone, Default)]
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn is_second(&self) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst) == SECOND
    }
}

fn answer(line: &Bytes) -> Bytes {
    assert_ne!(line, "fall", "on purpose");
    shout(line)
}

// ---- the framed leaf ----

#[tokio::test(start_paused = true)]
async fn in_the_factory() {
    let turn = Turn::default();
    ends_its_own_connection_only(per_connection(Lines::lf(), move |_: &Peer| {
        assert!(!turn.is_second(), "on purpose");
        reply_fn(|line: Bytes| answer(&line))
    }))
    .await;
}

/// Lines with holes in them.
#[derive(Clone)]
struct Trapped {
    lines: Lines,
    decode: bool,
    encode: bool,
    eof: bool,
}

impl Trapped {
    fn new() -> Self {
        Self { lines: Lines::lf(), decode: false, encode: false, eof: false }
    }
}

impl Decoder for Trapped {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        assert!(!self.decode || !src.starts_with(b"fall"), "on purpose");
        self.lines.decode(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        assert!(!self.eof || src.is_empty(), "on purpose");
        self.lines.decode_eof(src)
    }
}

impl Encoder<Bytes> for Trapped {
    type Error = CodecError;

    fn encode(&mut self, line: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        if self.encode && line == "FALL" {
            // Half of it is written by then.
            dst.extend_from_slice(b"FA");
            panic!("on purpose");
        }
        self.lines.encode(line, dst)
    }
}

#[tokio::test(start_paused = true)]
async fn in_decode() {
    let codec = Trapped { decode: true, ..Trapped::new() };
    ends_its_own_connection_only(framed(codec, reply_fn(|line: Bytes| shout(&line)))).await;
}

#[tokio::test(start_paused = true)]
async fn in_encode_and_nothing_of_the_broken_frame_reaches_another_connection() {
    let codec = Trapped { encode: true, ..Trapped::new() };
    ends_its_own_connection_only(framed(codec, reply_fn(|line: Bytes| shout(&line)))).await;
}

#[tokio::test(start_paused = true)]
async fn in_decode_at_the_end_of_the_stream() {
    let codec = Trapped { eof: true, ..Trapped::new() };
    let (server, connector) = on_memory(Server::new(), framed(codec, reply_fn(|line: Bytes| shout(&line)))).await;
    let mut client = connector.connect().await.unwrap();
    let mut other = connector.connect().await.unwrap();
    client.write_all(b"half a li").await.unwrap();
    client.shutdown().await.unwrap();
    assert_cut(&mut client).await;
    ask(&mut other, "a\n", "A\n").await;
    server.until("it has ended", |counts| counts.active() == 1).await;
    drop(other);
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::Panic, 1)]);
}

/// A service of lines that panics where it is told to.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    PollReady,
    Call,
    Future,
    DropService,
    DropFuture,
}

struct Falls {
    place: Where,
    fallen: bool,
}

impl Service<Bytes> for Falls {
    type Response = Bytes;
    type Error = Error;
    type Future = FallsFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        // Asked when a frame is there; the neighbours' first ones pass.
        assert!(!self.fallen || self.place != Where::PollReady, "on purpose");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, line: Bytes) -> FallsFuture {
        if line != "fall" {
            return FallsFuture { answer: Some(shout(&line)), place: None };
        }
        self.fallen = true;
        assert!(self.place != Where::Call, "on purpose");
        FallsFuture { answer: Some(shout(&line)), place: Some(self.place) }
    }
}

impl Drop for Falls {
    fn drop(&mut self) {
        // Not while the test itself unwinds, which would abort it.
        if self.place == Where::DropService && self.fallen && !std::thread::panicking() {
            panic!("on purpose");
        }
    }
}

struct FallsFuture {
    answer: Option<Bytes>,
    place: Option<Where>,
}

impl Future for FallsFuture {
    type Output = Result<Bytes>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<Bytes>> {
        assert!(self.place != Some(Where::Future), "on purpose");
        Poll::Ready(Ok(self.answer.take().unwrap()))
    }
}

impl Drop for FallsFuture {
    fn drop(&mut self) {
        if self.place == Some(Where::DropFuture) && !std::thread::panicking() {
            panic!("on purpose");
        }
    }
}

fn falls(place: Where) -> impl Service<Connection, Response = (), Error = Error, Future: Send + 'static> + Send {
    per_connection(Lines::lf(), move |_: &Peer| Falls { place, fallen: false })
}

#[tokio::test(start_paused = true)]
async fn in_call() {
    ends_its_own_connection_only(falls(Where::Call)).await;
}

#[tokio::test(start_paused = true)]
async fn in_the_future_of_a_call() {
    ends_its_own_connection_only(falls(Where::Future)).await;
}

#[tokio::test(start_paused = true)]
async fn in_the_drop_of_the_future_of_a_call() {
    ends_its_own_connection_only(falls(Where::DropFuture)).await;
}

/// As [`ends_its_own_connection_only`], for what takes more than `fall` to happen.
async fn after(
    more: &[u8],
    service: impl ConnectionService + Service<Connection, Response = (), Error = Error, Future: Send>,
) {
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut other = connector.connect().await.unwrap();
    ask(&mut other, "a\n", "A\n").await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"fall\n").await.unwrap();
    client.write_all(more).await.unwrap();
    client.shutdown().await.unwrap();
    drop(client.read_to_end(&mut Vec::new()).await);
    server.until("it has ended", |counts| counts.active() == 1).await;
    assert_reasons(&server.counts(), &[(CloseReason::Panic, 1)]);
    ask(&mut other, "b\n", "B\n").await;
    drop(other);
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::Panic, 1)]);
}

#[tokio::test(start_paused = true)]
async fn in_poll_ready() {
    after(b"next\n", falls(Where::PollReady)).await;
}

#[tokio::test(start_paused = true)]
async fn in_the_drop_of_the_service() {
    after(b"", falls(Where::DropService)).await;
}

#[tokio::test(start_paused = true)]
async fn in_the_drop_of_a_service_that_is_aborted() {
    let (server, connector) = on_memory(Server::new(), falls(Where::DropService)).await;
    let mut other = connector.connect().await.unwrap();
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "fall\n", "FALL\n").await;
    ask(&mut other, "a\n", "A\n").await;
    server.handle().stop();
    assert_cut(&mut client).await;
    assert_cut(&mut other).await;
    // The first reason stands: it was aborted, whatever happened then.
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 2)]);
}

#[tokio::test(start_paused = true)]
async fn in_on_error() {
    let fail = service_fn(async |line: Bytes| if line == "fall" { Err(Error::other("no")) } else { Ok(shout(&line)) });
    let service = framed(Lines::lf(), fail).on_error(|_: &Error| -> Bytes { panic!("on purpose") });
    ends_its_own_connection_only(service).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_concurrent_call_and_the_other_calls_of_its_connection_are_dropped() {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let alive = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&alive);
    let service = service_fn(move |line: Bytes| {
        counter.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(Arc::clone(&counter));
        async move {
            match &line[..] {
                b"wait" => pending().await,
                b"fall" => panic!("on purpose"),
                _ => {}
            }
            drop(alive);
            Ok(shout(&line))
        }
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service).concurrent(8)).await;
    let mut other = connector.connect().await.unwrap();
    ask(&mut other, "a\n", "A\n").await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"wait\nwait\nwait\n").await.unwrap();
    until("three wait", || alive.load(Ordering::SeqCst) == 3).await;
    client.write_all(b"fall\n").await.unwrap();
    assert_cut(&mut client).await;
    until("they are dropped", || alive.load(Ordering::SeqCst) == 0).await;
    ask(&mut other, "b\n", "B\n").await;
    drop(other);
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::Panic, 1)]);
}

#[tokio::test(start_paused = true)]
async fn in_a_stream_of_answers() {
    let service = reply_fn(|line: Bytes| {
        let falls = line == "fall";
        Reply::stream(futures::stream::once(async move {
            assert!(!falls, "on purpose");
            Ok(shout(&line))
        }))
    });
    ends_its_own_connection_only(framed(Lines::lf(), service)).await;
}

// ---- the session leaf ----

async fn talk(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.reply(answer(&line))?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn in_a_session() {
    ends_its_own_connection_only(session(Lines::lf(), talk)).await;
}

#[tokio::test(start_paused = true)]
async fn before_a_session_awaits_anything() {
    let turn = Turn::default();
    ends_its_own_connection_only(session(Lines::lf(), move |s: Session<Lines>| {
        // Not in the future: in the function that makes it, which the accept loop calls.
        assert!(!turn.is_second(), "on purpose");
        talk(s)
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn in_a_driven_session() {
    let greet = async |s: Session<Lines>| s.drive(reply_fn(|line: Bytes| answer(&line))).await;
    ends_its_own_connection_only(session(Lines::lf(), greet)).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_task_a_session_was_moved_to() {
    let moved = session(Lines::lf(), async |s: Session<Lines>| {
        let task = tokio::spawn(talk(s));
        // The author's own task: it is for the author to say what its panic means.
        task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    });
    ends_its_own_connection_only(moved).await;
}

// ---- layers ----

/// Panics in the call of the second connection, or in what it returns.
#[derive(Clone)]
struct TrapLayer {
    turn: Turn,
    in_call: bool,
}

impl<S> Layer<S> for TrapLayer {
    type Service = Trap<S>;

    fn layer(&self, inner: S) -> Trap<S> {
        Trap { inner, layer: self.clone() }
    }
}

struct Trap<S> {
    inner: S,
    layer: TrapLayer,
}

impl<S: Service<Connection, Error = Error>> Service<Connection> for Trap<S>
where
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let falls = self.layer.turn.is_second();
        assert!(!falls || !self.layer.in_call, "on purpose");
        let served = self.inner.call(connection);
        Box::pin(async move {
            assert!(!falls, "on purpose");
            served.await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_call_of_a_connection_layer() {
    for in_call in [true, false] {
        let trap = TrapLayer { turn: Turn::default(), in_call };
        ends_its_own_connection_only(trap.layer(session(Lines::lf(), talk))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_layer_outside_of_the_limit() {
    let limit = ConnectionLimitLayer::new(1).refuse_with("full\n");
    let trap = TrapLayer { turn: Turn::default(), in_call: true };
    let server = Server::new().layer(trap).layer(limit.clone());
    let (server, connector) = on_memory(server, session(Lines::lf(), talk)).await;
    for i in 0..3 {
        let mut client = connector.connect().await.unwrap();
        if i == SECOND {
            assert_cut(&mut client).await;
        } else {
            ask(&mut client, "a\n", "A\n").await;
        }
        drop(client);
        until("its place is free", || limit.active() == 0).await;
    }
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Panic, 1)]);
}

#[tokio::test(start_paused = true)]
async fn with_a_payload_that_panics_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("and again");
            }
        }
    }
    /// Throws a bomb at the second connection: in the accept loop, or in its task.
    struct Throws {
        in_call: bool,
        turn: Turn,
    }
    impl Service<Connection> for Throws {
        type Response = ();
        type Error = Error;
        type Future = Pin<Box<dyn Future<Output = Result> + Send>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Connection) -> Self::Future {
            if !self.turn.is_second() {
                return Box::pin(async { Ok(()) });
            }
            if self.in_call {
                std::panic::panic_any(Bomb);
            }
            Box::pin(async { std::panic::panic_any(Bomb) })
        }
    }
    for in_call in [true, false] {
        let service = Throws { in_call, turn: Turn::default() };
        let (server, connector) = on_memory(Server::new(), service).await;
        for _ in 0..3 {
            assert_cut(&mut connector.connect().await.unwrap()).await;
        }
        server.until("all have ended", |counts| counts.closed_in_all() == 3).await;
        assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Panic, 1)]);
    }
}

// ---- many of them ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_panics_cost_their_neighbours_no_frame() {
    let limit = ConnectionLimitLayer::new(40).refuse_with("full\n");
    let server = on_tcp(Server::new().layer(limit.clone()), session(Lines::lf(), talk)).await;
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(async move {
            for _ in 0..250 {
                let mut client = TcpStream::connect(addr).await.unwrap();
                ask(&mut client, "a\n", "A\n").await;
                client.write_all(b"fall\n").await.unwrap();
                drop(client.read_to_end(&mut Vec::new()).await);
            }
        });
    }
    for _ in 0..8 {
        clients.spawn(async move {
            let mut client = TcpStream::connect(addr).await.unwrap();
            for i in 0..300 {
                let line = format!("frame {i}\n");
                ask(&mut client, &line, &line.to_uppercase()).await;
            }
        });
    }
    clients.join_all().await;
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_eq!((limit.active(), limit.available()), (0, 40));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 8), (CloseReason::Panic, 1000)]);
}
