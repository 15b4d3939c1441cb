//! A panic in a codec or a service of frames ends its own connection, and nothing else.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use ropewalk::codec::CodecError;
use ropewalk::{
    CloseReason, Connection, ConnectionService, Error, Lines, Reply, Result, Server, framed,
    per_connection, reply_fn, service_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::{Decoder, Encoder};
use tower::Service;

use crate::harness::falls::{Turn, answer, ends_its_own_connection_only};
use crate::harness::{ask, assert_cut, assert_reasons, on_memory, shout, until};

#[tokio::test(start_paused = true)]
async fn in_the_factory() {
    let turn = Turn::default();
    ends_its_own_connection_only(per_connection(Lines::lf(), move |_| {
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
    let (server, connector) =
        on_memory(Server::new(), framed(codec, reply_fn(|line: Bytes| shout(&line)))).await;
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

fn falls(
    place: Where,
) -> impl Service<Connection, Response = (), Error = Error, Future: Send + 'static> + Send {
    per_connection(Lines::lf(), move |_| Falls { place, fallen: false })
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
async fn after(more: &[u8], service: impl ConnectionService<Error = Error>) {
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
    // The first reason stands: it was aborted before it panicked.
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 2)]);
}

#[tokio::test(start_paused = true)]
async fn in_on_error() {
    let fail = service_fn(
        async |line: Bytes| if line == "fall" { Err(Error::other("no")) } else { Ok(shout(&line)) },
    );
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
    let (server, connector) =
        on_memory(Server::new(), framed(Lines::lf(), service).concurrent(8)).await;
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
