//! Outboxes of one connection, and encoders that push: all get their turn.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropewalk::codec::Encoder;
use ropewalk::{Error, Lines, Outbox, Result, Session, SlowConsumer, session};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::wired::{settle, wired, wired_with};

const LONG: Duration = Duration::from_secs(3600);

/// Encodes a number, and has the next one pushed meanwhile.
#[derive(Clone)]
struct Endless;

impl tokio_util::codec::Decoder for Endless {
    type Item = ();
    type Error = Error;

    fn decode(&mut self, _: &mut BytesMut) -> Result<Option<()>> {
        Ok(None)
    }
}

/// The outbox that is encoded from.
struct Again(u64, Outbox<Self>);

impl Encoder<Again> for Endless {
    type Error = Error;

    fn encode(&mut self, Again(n, outbox): Again, dst: &mut BytesMut) -> Result {
        // To nothing, mostly: so no mark for bytes is ever reached.
        if n % 1000 == 0 {
            dst.extend_from_slice(format!("{n}\n").as_bytes());
        }
        let next = Again(n + 1, outbox.clone());
        outbox.push(next).map_err(|_| Error::other("it is closed"))
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_pushes_without_end_does_not_keep_the_other_tasks_from_running() {
    let leaf = session(Endless, async |mut s: Session<Endless>| {
        let outbox = s.outbox(2, SlowConsumer::Refuse);
        outbox.push(Again(0, outbox.clone())).map_err(|_| Error::other("full"))?;
        s.next().await.map(drop)
    });
    let mut w = wired(leaf);
    w.expect("0\n1000\n2000\n").await;
    // Written after each turn, long before a mark is reached.
    assert!(w.stats.frames_out() < 100_000, "{}", w.stats.frames_out());
    w.closing.abort();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn an_outbox_that_is_never_empty_leaves_room_for_the_others() {
    let (told, mut outboxes) = unbounded_channel();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let outboxes: [Outbox<Bytes>; 2] =
            [s.outbox(1000, SlowConsumer::Refuse), s.outbox(4, SlowConsumer::Refuse)];
        told.send(outboxes).unwrap();
        async move { s.next().await.map(drop) }
    });
    let mut w = wired_with(leaf, 1024);
    let [busy, quiet] = outboxes.recv().await.unwrap();
    let large = Bytes::from(vec![b'x'; 8 * 1024]);
    for _ in 0..1000 {
        busy.push(large.clone()).unwrap();
    }
    quiet.push("here".into()).unwrap();
    let (mut heard, is_in) =
        (Vec::new(), |heard: &[u8]| heard.windows(6).any(|bytes| bytes == b"\nhere\n"));
    while !is_in(&heard) && heard.len() < 5 * 64 * 1024 {
        let mut buf = vec![0; 16 * 1024];
        let n = tokio::io::AsyncReadExt::read(&mut w.peer, &mut buf).await.unwrap();
        heard.extend_from_slice(&buf[..n]);
    }
    assert!(is_in(&heard), "{} bytes came first", heard.len());
    assert_eq!(busy.refused(), 0);
    w.closing.abort();
    settle().await;
}

/// Encodes a line, and answers each `ping` by a push into another outbox.
#[derive(Clone)]
struct Pings(Arc<OnceLock<Outbox<&'static str>>>);

impl tokio_util::codec::Decoder for Pings {
    type Item = ();
    type Error = Error;

    fn decode(&mut self, _: &mut BytesMut) -> Result<Option<()>> {
        Ok(None)
    }
}

impl Encoder<&'static str> for Pings {
    type Error = Error;

    fn encode(&mut self, line: &'static str, dst: &mut BytesMut) -> Result {
        dst.extend_from_slice(line.as_bytes());
        if line == "ping " {
            self.0.get().unwrap().push("pong ").map_err(|_| Error::other("full"))?;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_into_an_outbox_that_was_looked_at_before_in_the_same_turn_is_not_missed() {
    let cell = Arc::new(OnceLock::new());
    let (told, mut outboxes) = unbounded_channel();
    let leaf = session(Pings(Arc::clone(&cell)), move |mut s: Session<Pings>| {
        told.send([s.outbox(4, SlowConsumer::Refuse), s.outbox(4, SlowConsumer::Refuse)]).unwrap();
        async move { s.next().await.map(drop) }
    });
    let mut w = wired(leaf);
    let [pongs, pings] = outboxes.recv().await.unwrap();
    assert!(cell.set(pongs).is_ok());
    // They are looked at in turns: each is the first one twice.
    for _ in 0..4 {
        settle().await;
        pings.push("ping ").unwrap();
        timeout(LONG, w.expect("ping pong ")).await.expect("both come");
    }
    w.closing.abort();
}
