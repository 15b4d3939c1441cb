//! Calls of the service that are under way: how many, in which order, and what happens meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use ropewalk::{CloseReason, Error, Lines, Reply, framed, service_fn};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower::Service;

use crate::wired::{settle, wired};

const SECOND: Duration = Duration::from_secs(1);

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
        self.0
            .lock()
            .unwrap()
            .remove(frame)
            .expect("it was called")
            .send(())
            .expect("it still waits");
    }

    async fn fails(&self, frame: &str) {
        drop(self.0.lock().unwrap().remove(frame).expect("it was called"));
        settle().await;
    }
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
    let mut w =
        wired(framed(Lines::lf(), service_fn(move |line| calls.clone().hold(line))).unordered(3));
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
    let pending = framed(
        Lines::lf(),
        service_fn(async |_: Bytes| std::future::pending::<ropewalk::Result<Bytes>>().await),
    );
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

#[tokio::test(start_paused = true)]
async fn no_more_than_one_buffer_is_read_ahead_of_a_pending_call() {
    let mut w = wired(framed(
        Lines::lf(),
        service_fn(async |_: Bytes| std::future::pending::<ropewalk::Result<Bytes>>().await),
    ));
    let mut sent = 0;
    let line = "some line\n".repeat(100);
    while let Ok(n) = timeout(Duration::from_millis(50), w.peer.write(line.as_bytes())).await {
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
async fn a_drain_answers_arrived_frames_and_pending_calls() {
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

#[tokio::test(start_paused = true)]
async fn calls_go_on_while_an_answer_waits_for_a_lock_they_hold() {
    let service = || {
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        service_fn(move |line: Bytes| {
            let lock = Arc::clone(&lock);
            async move {
                if line == "stream" {
                    sleep(SECOND).await;
                    // The call behind it has the lock by now.
                    return Ok(Reply::stream(stream::once(async move {
                        drop(lock.lock().await);
                        Ok(line)
                    })));
                }
                let held = lock.lock().await;
                sleep(2 * SECOND).await;
                drop(held);
                Ok(Reply::one(line))
            }
        })
    };
    let ordered = wired(framed(Lines::lf(), service()).concurrent(2));
    let unordered = wired(framed(Lines::lf(), service()).unordered(2));
    for mut w in [ordered, unordered] {
        w.say("stream\nlock\n").await;
        timeout(600 * SECOND, w.expect("stream\nlock\n"))
            .await
            .expect("neither waits for the other for ever");
        assert_eq!(w.finish().await, "");
        w.end().await.unwrap();
    }
}
