//! What `framed` and `Session::drive` promise.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod wired;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use ropewalk::{
    CloseReason, CodecError, Error, Lines, Netstring, RawBytes, Reply, Session, framed, per_connection, reply_fn,
    service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tower::Service;
use wired::{settle, wired, wired_with};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Calls that end when the test says so.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>);

impl Held {
    /// A call that waits to be let go.
    async fn hold(self, frame: Bytes) -> ropewalk::Result<Bytes> {
        let (go, wait) = oneshot::channel();
        self.0.lock().unwrap().insert(text(&frame), go);
        wait.await?;
        Ok(frame)
    }

    fn waiting(&self) -> Vec<String> {
        let mut all: Vec<_> = self.0.lock().unwrap().keys().cloned().collect();
        all.sort();
        all
    }

    fn go(&self, frame: &str) {
        self.0.lock().unwrap().remove(frame).expect("it was called").send(()).expect("it still waits");
    }

    async fn fails(&self, frame: &str) {
        drop(self.0.lock().unwrap().remove(frame).expect("it was called"));
        settle().await;
    }
}

#[tokio::test]
async fn a_burst_is_answered_with_one_read_and_one_write() {
    let mut w = wired(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    for _ in 0..3 {
        let burst: String = (0..64).map(|i| format!("line {i:058}\n")).collect();
        let (reads, writes) = (w.calls.reads(), w.calls.writes());
        w.say(&burst).await;
        w.expect(&burst).await;
        settle().await;
        assert_eq!((w.calls.reads() - reads, w.calls.writes() - writes), (1, 1));
    }
    assert_eq!((w.stats.frames_in(), w.stats.frames_out()), (192, 192));
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test]
async fn none_one_many_and_stream_are_answers() {
    let mut w = wired(framed(
        Lines::lf(),
        reply_fn(|line: Bytes| match &line[..] {
            b"none" => Reply::none(),
            b"many" => Reply::many(["1", "2", "3"]),
            b"stream" => Reply::stream(stream::iter(["a", "b"].map(Ok))),
            b"maybe" => Reply::maybe(None),
            b"bye" => Reply::one("bye").then_close(),
            _ => Reply::one("one"),
        }),
    ));
    w.say("none\nmany\nmaybe\none\nstream\nbye\nmany\n").await;
    // What is behind `then_close` is not served.
    assert_eq!(w.rest().await, "1\n2\n3\none\na\nb\nbye\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn long_answers_wait_for_room() {
    let polled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&polled);
    let service = reply_fn(move |_: Bytes| {
        let counter = Arc::clone(&counter);
        Reply::stream(stream::iter(0..100_000).map(move |i| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(format!("{i:099}"))
        }))
    });
    let mut w = wired_with(framed(Lines::lf(), service), 1000);
    w.say("go\n").await;
    settle().await;
    let ahead = polled.load(Ordering::SeqCst);
    assert!((1..2000).contains(&ahead), "it is polled only while there is room: {ahead}");
    let mut total = 0;
    let mut buf = vec![0; 64 * 1024];
    while total < 10_000_000 {
        total += w.peer.read(&mut buf).await.unwrap();
    }
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test]
async fn calls_run_one_at_a_time_unless_told_otherwise() {
    let held = Held::default();
    let calls = held.clone();
    let mut w = wired(framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line))));
    w.say("a\nb\n").await;
    settle().await;
    assert_eq!(held.waiting(), ["a"]);
    held.go("a");
    w.expect("a\n").await;
    settle().await;
    held.go("b");
    assert_eq!(w.finish().await, "b\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn concurrent_calls_are_answered_in_the_order_of_their_frames() {
    let held = Held::default();
    let calls = held.clone();
    let leaf = framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line)))
        .concurrent(3)
        .on_error(|_: &Error| Bytes::from_static(b"failed"));
    let mut w = wired(leaf);
    w.say("a\nb\nc\nd\n").await;
    settle().await;
    assert_eq!(held.waiting(), ["a", "b", "c"], "no more than three at once");
    held.go("c");
    held.fails("b").await;
    assert_eq!(w.calls.writes(), 0, "nothing overtakes a");
    held.go("a");
    w.expect("a\nfailed\nc\n").await;
    settle().await;
    held.go("d");
    assert_eq!(w.finish().await, "d\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn unordered_answers_come_as_they_are_ready() {
    let held = Held::default();
    let calls = held.clone();
    let mut w = wired(framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line))).unordered(3));
    w.say("a\nb\nc\nd\n").await;
    settle().await;
    assert_eq!(held.waiting(), ["a", "b", "c"]);
    held.go("b");
    w.expect("b\n").await;
    settle().await;
    held.go("d");
    w.expect("d\n").await;
    held.go("a");
    w.expect("a\n").await;
    held.go("c");
    assert_eq!(w.finish().await, "c\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_close_cancels_the_calls_behind_it() {
    let held = Held::default();
    let calls = held.clone();
    let service = service_fn(move |line: Bytes| {
        let calls = calls.clone();
        async move {
            match &line[..] {
                b"quit" => Ok(Reply::one(Bytes::from_static(b"bye")).then_close()),
                _ => calls.hold(line).await.map(Reply::one),
            }
        }
    });
    let mut w = wired(framed(Lines::lf(), service).concurrent(8));
    w.say("a\nquit\nb\n").await;
    settle().await;
    assert_eq!(held.waiting(), ["a", "b"]);
    held.go("a");
    assert_eq!(w.rest().await, "a\nbye\n");
    settle().await;
    assert!(held.0.lock().unwrap().remove("b").unwrap().is_closed(), "b was cancelled");
    w.end().await.unwrap();
}

#[tokio::test]
async fn errors_become_answers_in_their_place() {
    let service = service_fn(async |line: Bytes| match &line[..] {
        b"bad" => Err(Error::other("no such thing")),
        _ => Ok(line),
    });
    let leaf = framed(Lines::lf().max(8).skip_too_long(), service).on_error(|e: &Error| {
        match e.downcast_ref::<CodecError>() {
            Some(_) => Bytes::from_static(b"500 long"),
            None => Bytes::from(e.to_string().into_bytes().split_off(8)),
        }
    });
    let mut w = wired(leaf);
    w.say("a\nbad\nway too long a line\nb\n").await;
    assert_eq!(w.finish().await, "a\nthing\n500 long\nb\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn after_a_fatal_error_its_answer_is_the_last() {
    let leaf = framed(Netstring::new(), reply_fn(|frame: Bytes| frame)).on_error(|_: &Error| Bytes::from_static(b"?!"));
    let mut w = wired(leaf);
    w.say("1:a,oops1:b,").await;
    assert_eq!(w.rest().await, "1:a,2:?!,");
    let closing = w.closing.clone();
    w.end().await.unwrap();
    assert_eq!(closing.reason(), Some(CloseReason::CodecError));
}

#[tokio::test]
async fn without_on_error_a_failed_call_ends_the_connection_behind_earlier_answers() {
    let service = service_fn(async |line: Bytes| match &line[..] {
        b"bad" => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
        _ => Ok(line),
    });
    let mut w = wired(framed(Lines::lf(), service));
    w.say("a\nbad\nb\n").await;
    assert_eq!(w.rest().await, "a\n");
    let closing = w.closing.clone();
    w.end().await.unwrap_err();
    // A backend's reset is not this peer's.
    assert_eq!(closing.reason(), Some(CloseReason::ServiceError));
}

#[tokio::test]
async fn an_answer_that_cannot_be_encoded_ends_the_connection_and_splits_no_response() {
    let mut w = wired(framed(Lines::lf(), reply_fn(|_: Bytes| "two\nlines")));
    w.say("go\n").await;
    assert_eq!(w.rest().await, "");
    assert!(w.end().await.unwrap_err().downcast_ref::<CodecError>().is_some());
}

/// A service that says when it is readied, and may refuse to be.
#[derive(Clone)]
struct Readied {
    readied: Arc<AtomicUsize>,
    never: bool,
}

impl Service<Bytes> for Readied {
    type Response = Bytes;
    type Error = Error;
    type Future = std::future::Ready<Result<Bytes, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.readied.fetch_add(1, Ordering::SeqCst);
        if self.never { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, frame: Bytes) -> Self::Future {
        std::future::ready(Ok(frame))
    }
}

#[tokio::test]
async fn the_service_is_readied_only_when_there_is_a_frame() {
    let readied = Arc::new(AtomicUsize::new(0));
    let mut w = wired(framed(Lines::lf(), Readied { readied: Arc::clone(&readied), never: false }));
    w.say("half a li").await;
    settle().await;
    assert_eq!(readied.load(Ordering::SeqCst), 0);
    w.say("ne\n").await;
    w.expect("half a line\n").await;
    assert_eq!(readied.load(Ordering::SeqCst), 1);
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_goes_away_is_noticed_while_the_service_is_not_ready_or_a_call_is_pending() {
    let (endpoint, connector) = ropewalk::memory::endpoint();
    let (endpoint2, connector2) = ropewalk::memory::endpoint();
    let never = framed(Lines::lf(), Readied { readied: Arc::default(), never: true });
    let pending =
        framed(Lines::lf(), service_fn(async |_: Bytes| std::future::pending::<ropewalk::Result<Bytes>>().await));
    let servers = [
        ropewalk::Server::new().listen(endpoint).serve(never),
        ropewalk::Server::new().listen(endpoint2).serve(pending),
    ];
    for (server, connector) in servers.into_iter().zip([connector, connector2]) {
        let handle = server.handle();
        let server = tokio::spawn(server);
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\nb\n").await.unwrap();
        settle().await;
        assert_eq!(handle.counts().active(), 1);
        client.abort();
        while handle.counts().active() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(handle.counts().closed(CloseReason::PeerReset), 1);
        handle.stop();
        server.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_more_than_one_buffer_is_read_ahead_of_a_pending_call() {
    let mut w = wired(framed(
        Lines::lf(),
        service_fn(async |_: Bytes| std::future::pending::<ropewalk::Result<Bytes>>().await),
    ));
    let mut sent = 0;
    let line = "some line\n".repeat(100);
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(50), w.peer.write(line.as_bytes())).await {
        sent += n.unwrap();
        assert!(sent < 1 << 20, "it reads on and on");
    }
    // A buffer of the pipe, a buffer read ahead, and what one more read brought.
    assert!((128 * 1024..256 * 1024).contains(&sent), "{sent}");
}

#[tokio::test]
async fn half_closed_clients_get_the_answer_of_a_pending_call() {
    let held = Held::default();
    let calls = held.clone();
    let mut w = wired(framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line))));
    w.say("a\n").await;
    w.peer.shutdown().await.unwrap();
    settle().await;
    held.go("a");
    assert_eq!(w.rest().await, "a\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_drain_answers_what_has_arrived_and_what_is_pending() {
    let held = Held::default();
    let calls = held.clone();
    let mut w = wired(framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line))));
    w.say("a\n").await;
    settle().await;
    w.say("b\n").await;
    w.closing.drain();
    settle().await;
    held.go("a");
    settle().await;
    held.go("b");
    assert_eq!(w.rest().await, "a\nb\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn each_connection_has_a_service_of_its_own_made_for_its_peer() {
    let leaf = per_connection(Lines::lf(), |peer: &ropewalk::Peer| {
        let (peer, mut n) = (peer.to_string(), 0);
        reply_fn(move |_: Bytes| {
            n += 1;
            format!("{peer} {n}")
        })
    });
    for _ in 0..2 {
        let mut w = wired(leaf.clone());
        w.say("\n\n").await;
        assert_eq!(w.finish().await, "memory: 1\nmemory: 2\n");
        w.end().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_drives_a_service_from_where_it_stands() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        s.reply("who?")?;
        let name = s.next().await?.unwrap_or_default();
        let service = service_fn(move |line: Bytes| {
            let name = text(&name);
            async move { Ok(format!("{name}: {}", text(&line))) }
        });
        s.drive(service).concurrent(4).on_error(|_: &Error| String::from("error")).await
    }));
    w.expect("who?\n").await;
    w.say("ada\none\ntwo\n").await;
    assert_eq!(w.finish().await, "ada: one\nada: two\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn twenty_megabytes_arrive_whole_at_a_client_that_half_closed() {
    let mut w = wired(framed(RawBytes, reply_fn(|_: Bytes| Bytes::from(vec![7; 20_000_000]))));
    w.say("x").await;
    w.peer.shutdown().await.unwrap();
    let mut all = Vec::new();
    w.peer.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 20_000_000);
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_greedy_connection_lets_others_run() {
    let mut w = wired_with(framed(Lines::lf(), reply_fn(|_: Bytes| Reply::<Bytes>::none())), 1 << 20);
    let turns = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&turns);
    let other = tokio::spawn(std::future::poll_fn(move |cx| {
        counter.fetch_add(1, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    w.say(vec![b'\n'; 60_000]).await;
    let before = turns.load(Ordering::SeqCst);
    while w.stats.frames_in() < 60_000 {
        tokio::task::yield_now().await;
    }
    assert!(turns.load(Ordering::SeqCst) - before > 100, "60 000 frames are not one turn");
    other.abort();
}
