//! Outboxes that are full: what each policy does, bounds in bytes, waiting for room, and whose code
//! runs where.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropewalk::codec::Encoder;
use ropewalk::connection::Stream;
use ropewalk::outbox::{Capacity, PushError};
use ropewalk::{
    Addr, CloseReason, Connection, Error, Lines, Outbox, Peer, Result, Session, SlowConsumer,
    session,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;
use tower::Service;

use crate::wired::{Wired, settle, wired};

/// A session whose outbox fills until the gate is opened.
struct Closed<F> {
    w: Wired,
    gate: Arc<Semaphore>,
    outbox: Outbox<F>,
}

async fn closed<F>(capacity: Capacity<F>, slow: SlowConsumer) -> Closed<F>
where
    F: Send + 'static,
    Lines: Encoder<F, Error = ropewalk::codec::CodecError>,
{
    let gate = Arc::new(Semaphore::new(0));
    let (told, mut outboxes) = unbounded_channel();
    let opened = Arc::clone(&gate);
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        told.send(s.outbox(capacity, slow)).unwrap();
        let opened = Arc::clone(&opened);
        async move {
            drop(s.during(opened.acquire()).await?);
            while s.next().await?.is_some() {}
            Ok(())
        }
    });
    let w = wired(leaf);
    let outbox = outboxes.recv().await.unwrap();
    settle().await;
    Closed { w, gate, outbox }
}

impl<F> Closed<F> {
    /// The frames that the peer receives of those that were pushed, and how many were dropped.
    async fn opens(mut self) -> (String, u64) {
        self.gate.add_permits(1);
        settle().await;
        let heard = self.w.finish().await;
        (heard.replace('\n', " "), self.outbox.dropped())
    }
}

fn push_all(outbox: &Outbox<&'static str>, frames: &[&'static str]) -> Vec<bool> {
    frames.iter().map(|frame| outbox.push(frame).is_ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_refuses_and_gives_the_frame_back() {
    let c = closed(2.into(), SlowConsumer::Refuse).await;
    assert_eq!(push_all(&c.outbox, &["a", "b"]), [true; 2]);
    assert_eq!(c.outbox.push("c"), Err(PushError::Full("c")));
    assert_eq!(c.outbox.len(), 2);
    assert_eq!(c.opens().await, ("a b ".into(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_drops_the_oldest() {
    let c = closed(2.into(), SlowConsumer::DropOldest).await;
    assert_eq!(push_all(&c.outbox, &["a", "b", "c", "d"]), [true; 4]);
    assert_eq!(c.opens().await, ("c d ".into(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_drops_the_newest() {
    let c = closed(2.into(), SlowConsumer::DropNewest).await;
    assert_eq!(push_all(&c.outbox, &["a", "b", "c", "d"]), [true; 4]);
    assert_eq!(c.opens().await, ("a b ".into(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_breaks_the_connection_for_a_reason_of_its_own() {
    let mut c = closed(2.into(), SlowConsumer::Disconnect).await;
    assert_eq!(push_all(&c.outbox, &["a", "b"]), [true; 2]);
    assert_eq!(c.outbox.push("c"), Err(PushError::Closed("c")));
    assert_eq!(c.outbox.push("d"), Err(PushError::Closed("d")));
    assert!(c.outbox.is_closed() && c.outbox.is_empty());
    assert!(c.w.closing.is_aborted());
    assert_eq!(c.w.rest().await, "");
    assert_eq!(c.w.closing.reason(), Some(CloseReason::SlowConsumer));
}

#[tokio::test(start_paused = true)]
async fn no_frames_are_never_too_many_for_an_outbox_with_one_that_is_heavier_than_its_bound() {
    for slow in [SlowConsumer::Refuse, SlowConsumer::Disconnect] {
        let capacity = Capacity::frames(8).bytes(4, |frame: &&str| frame.len());
        let c = closed(capacity, slow).await;
        c.outbox.push("heavier").unwrap();
        c.outbox.push_all([]).unwrap();
        assert_eq!(c.opens().await, ("heavier ".into(), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn several_frames_are_taken_together_or_not_at_all() {
    for slow in [SlowConsumer::Refuse, SlowConsumer::Disconnect] {
        let c = closed(3.into(), slow).await;
        c.outbox.push_all(["a", "b"]).unwrap();
        match c.outbox.push_all(["c", "d"]).unwrap_err() {
            PushError::Full(frames) => {
                assert_eq!((frames, slow), (vec!["c", "d"], SlowConsumer::Refuse));
            }
            PushError::Closed(frames) => {
                assert_eq!((frames, slow), (vec!["c", "d"], SlowConsumer::Disconnect));
            }
        }
        if slow == SlowConsumer::Refuse {
            c.outbox.push_all(["e"]).unwrap();
            c.outbox.push_all([]).unwrap();
            assert_eq!(c.opens().await, ("a b e ".into(), 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_frames_the_oldest_or_the_newest_are_dropped() {
    let c = closed(3.into(), SlowConsumer::DropOldest).await;
    c.outbox.push_all(["a", "b"]).unwrap();
    c.outbox.push_all(["c", "d"]).unwrap();
    assert_eq!(c.opens().await, ("b c d ".into(), 1));

    let c = closed(3.into(), SlowConsumer::DropOldest).await;
    c.outbox.push_all(["a", "b", "c", "d", "e"]).unwrap();
    assert_eq!(c.opens().await, ("c d e ".into(), 2));

    let c = closed(3.into(), SlowConsumer::DropNewest).await;
    c.outbox.push_all(["a", "b"]).unwrap();
    c.outbox.push_all(["c", "d"]).unwrap();
    assert_eq!(c.opens().await, ("a b c ".into(), 1));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_where_a_frame_has_a_weight() {
    let bytes = |max| Capacity::frames(100).bytes(max, |frame: &Bytes| frame.len());
    let c = closed(bytes(10), SlowConsumer::Refuse).await;
    c.outbox.push("12345".into()).unwrap();
    c.outbox.push("12345".into()).unwrap();
    assert!(matches!(c.outbox.push("1".into()), Err(PushError::Full(_))));
    assert!(matches!(c.outbox.push_all(["1".into(), "2".into()]), Err(PushError::Full(_))));
    assert_eq!(c.opens().await, ("12345 12345 ".into(), 0));

    // As many go as it takes.
    let c = closed(bytes(10), SlowConsumer::DropOldest).await;
    for frame in ["123", "456", "789", "123456789"] {
        c.outbox.push(frame.into()).unwrap();
    }
    assert_eq!(c.opens().await, ("123456789 ".into(), 3));

    // One may weigh more than all may.
    let c = closed(bytes(10), SlowConsumer::Refuse).await;
    c.outbox.push("12345678901234567890".into()).unwrap();
    assert!(c.outbox.push("1".into()).is_err());
    let outbox = c.outbox.clone();
    c.gate.add_permits(1);
    settle().await;
    // And all is forgotten when it is gone.
    outbox.push("1234567890".into()).unwrap();
    assert_eq!(c.opens().await, ("12345678901234567890 1234567890 ".into(), 0));
}

#[tokio::test(start_paused = true)]
async fn an_outbox_of_no_frames_takes_one() {
    let c = closed(Capacity::frames(0), SlowConsumer::Refuse).await;
    assert_eq!(push_all(&c.outbox, &["a", "b"]), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_send_waits_for_room_and_is_not_put_in_when_it_is_dropped() {
    let c = closed(1.into(), SlowConsumer::Disconnect).await;
    c.outbox.send("a").await.unwrap();
    let waiting = |frame| {
        let outbox = c.outbox.clone();
        tokio::spawn(async move { outbox.send(frame).await })
    };
    // The first to wait is dropped as it is about to be told: the other has to hear of the room as
    // well.
    let (first, second) = (waiting("b"), waiting("c"));
    settle().await;
    assert!(!first.is_finished() && !second.is_finished());
    first.abort();
    c.gate.add_permits(1);
    second.await.unwrap().unwrap();
    let third = waiting("d");
    settle().await;
    third.await.unwrap().unwrap();
    assert_eq!(c.opens().await, ("a c d ".into(), 0));
}

#[tokio::test(start_paused = true)]
async fn all_that_wait_for_room_are_told_when_the_connection_ends() {
    let c = closed(1.into(), SlowConsumer::Refuse).await;
    c.outbox.send("a").await.unwrap();
    let waiting = ["b", "c"].map(|frame| {
        let outbox = c.outbox.clone();
        tokio::spawn(async move { outbox.send(frame).await })
    });
    settle().await;
    c.w.closing.abort();
    for (waiting, frame) in waiting.into_iter().zip(["b", "c"]) {
        assert_eq!(waiting.await.unwrap(), Err(PushError::Closed(frame)));
    }
}

/// A frame that looks into its outbox as it is weighed and dropped, as code of others may.
struct Curious(Arc<OnceLock<Outbox<Self>>>, Arc<AtomicUsize>);

impl Curious {
    fn looks(&self) -> usize {
        usize::from(self.0.get().unwrap().len() < usize::MAX)
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.1.fetch_add(self.looks(), Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct CuriousCodec;

impl tokio_util::codec::Decoder for CuriousCodec {
    type Item = ();
    type Error = Error;

    fn decode(&mut self, _: &mut BytesMut) -> Result<Option<()>> {
        Ok(None)
    }
}

impl Encoder<Curious> for CuriousCodec {
    type Error = Error;

    fn encode(&mut self, frame: Curious, _: &mut BytesMut) -> Result {
        drop(frame);
        Ok(())
    }
}

/// Fails instead of hanging when a lock is taken twice.
fn unhindered(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let testing = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    assert_ne!(
        is_done.recv_timeout(Duration::from_secs(60)),
        Err(mpsc::RecvTimeoutError::Timeout),
        "it is stuck"
    );
    testing.join().unwrap();
}

#[test]
fn no_frame_is_weighed_or_dropped_under_the_lock() {
    for slow in [SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Disconnect] {
        unhindered(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (told, mut outboxes) = unbounded_channel();
                let capacity = Capacity::frames(2).bytes(usize::MAX, Curious::looks);
                let leaf = session(CuriousCodec, move |mut s: Session<CuriousCodec>| {
                    told.send(s.outbox(capacity, slow)).unwrap();
                    async move { s.during(std::future::pending()).await }
                });
                let w = wired(leaf);
                let outbox: Outbox<Curious> = outboxes.recv().await.unwrap();
                let (cell, dropped) = (Arc::new(OnceLock::new()), Arc::default());
                assert!(cell.set(outbox.clone()).is_ok());
                let frame = || Curious(Arc::clone(&cell), Arc::clone(&dropped));
                for _ in 0..3 {
                    drop(outbox.push(frame()));
                }
                drop(outbox.push_all((0..4).map(|_| frame())));
                w.closing.abort();
                drop(w.end().await);
                assert!(outbox.is_closed());
                assert_eq!(dropped.load(Ordering::SeqCst), 7, "{slow:?}");
            });
        });
    }
}

/// A waker that looks into the outbox, and counts.
#[derive(Default)]
struct CuriousWaker(OnceLock<Outbox<Bytes>>, AtomicUsize);

impl Wake for CuriousWaker {
    fn wake(self: Arc<Self>) {
        let found = self.0.get().map_or(0, Outbox::len);
        assert!(found < 100);
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_burst_wakes_once_and_no_task_is_woken_under_the_lock() {
    unhindered(|| {
        let (told, mut outboxes) = unbounded_channel();
        let mut leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
            told.send(s.outbox(10, SlowConsumer::Disconnect)).unwrap();
            async move { s.next().await.map(drop) }
        });
        let (io, _peer) = tokio::io::duplex(64);
        let connection = Connection::new(Stream::from_io(io), Peer::new(Addr::Memory));
        let mut connection = Box::pin(leaf.call(connection));
        let waker = Arc::<CuriousWaker>::default();
        let woken = || waker.1.swap(0, Ordering::SeqCst);
        let polling = Waker::from(Arc::clone(&waker));
        let cx = &mut Context::from_waker(&polling);
        assert!(connection.as_mut().poll(cx).is_pending());
        let outbox = outboxes.try_recv().unwrap();
        assert!(waker.0.set(outbox.clone()).is_ok());

        for _ in 0..10 {
            outbox.push("x".into()).unwrap();
        }
        assert_eq!(woken(), 1, "only the first finds the outbox empty");
        let mut waits = Box::pin(outbox.send("y".into()));
        assert!(waits.as_mut().poll(cx).is_pending());
        assert!(connection.as_mut().poll(cx).is_pending());
        assert_ne!(woken(), 0, "the sender hears of the room");
        assert_eq!(waits.as_mut().poll(cx), Poll::Ready(Ok(())));
        assert_eq!(woken(), 1, "and the connection of the frame");
    });
}
