//! No connection keeps the others from their turn, however often its author awaits what is ready at
//! once.

use std::future::{poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::{Io, Stream};
use ropewalk::{
    Addr, CloseReason, Connection, Lines, Peer, RawBytes, Reply, Result, Server, Session, framed,
    memory, reply_fn, session,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{sleep, timeout};
use tower::Service;

use crate::harness::{Running, assert_reasons, settle};

/// So many steps are more than one turn.
const STEPS: usize = 20_000;

/// Takes all that is written, always has more to read, and knows nothing of tokio's budget.
struct Greedy {
    /// How much a read gives and a write takes at most.
    piece: usize,
    /// How much it gives in all.
    left: usize,
}

impl Io for Greedy {}

impl AsyncRead for Greedy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = buf.remaining().min(self.piece).min(self.left);
        buf.put_slice(&vec![b'\n'; n]);
        self.left -= n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greedy {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len().min(self.piece)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How many turns something else on this thread has until the future is ready.
async fn turns_of_others(future: impl Future<Output = Result> + Send + 'static) -> usize {
    let turns = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&turns);
    let others = tokio::spawn(poll_fn(move |cx| {
        counter.fetch_add(1, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    tokio::spawn(future).await.unwrap().unwrap();
    others.abort();
    turns.load(Ordering::SeqCst)
}

fn over(io: impl Io) -> Connection {
    Connection::new(Stream::boxed(io), Peer::new(Addr::Memory))
}

/// Something that is ready at once, whether it succeeds or not.
async fn step(s: &mut Session<Lines>, what: &str) {
    match what {
        "send" => s.send("tick").await.unwrap(),
        "reply and flush" => {
            s.feed("tick").unwrap();
            s.flush().await.unwrap();
        }
        "flush" => s.flush().await.unwrap(),
        "send when aborted" => assert!(s.send("tick").await.is_err()),
        "raw" => assert_eq!(s.raw(1).await.unwrap().len(), 1),
        "raw(0)" => assert!(s.raw(0).await.unwrap().is_empty()),
        "raw of too much" => assert!(s.raw(u64::MAX).await.is_err()),
        "raw at the end" => assert!(s.raw(1).await.is_err()),
        "chunks" => assert!(s.raw_chunks(1).unwrap().next().await.unwrap().is_some()),
        "no chunk" => assert!(s.raw_chunks(0).unwrap().next().await.unwrap().is_none()),
        "skip" => {
            drop(s.raw_chunks(1).unwrap());
            assert!(s.next().await.unwrap().is_some());
        }
        "next" => assert!(s.next().await.unwrap().is_some()),
        "next at the end" | "next when aborted" => drop(s.next().await),
        "during" => s.during(ready(())).await.unwrap(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn whatever_a_session_awaits_in_a_loop_lets_the_others_have_their_turn() {
    let all = [
        "send",
        "reply and flush",
        "flush",
        "send when aborted",
        "raw",
        "raw(0)",
        "raw of too much",
        "raw at the end",
        "chunks",
        "no chunk",
        "skip",
        "next",
        "next at the end",
        "next when aborted",
        "during",
    ];
    for what in all {
        let mut leaf = session(Lines::lf(), move |mut s: Session<Lines>| async move {
            if what.ends_with("aborted") {
                s.closing().abort();
            }
            for _ in 0..STEPS {
                step(&mut s, what).await;
            }
            Ok(())
        });
        let left = if what.ends_with("end") { 0 } else { usize::MAX };
        let turns = turns_of_others({
            let run = leaf.call(over(Greedy { piece: usize::MAX, left }));
            // The close of an aborted one fails.
            async move { run.await.or(Ok(())) }
        })
        .await;
        assert!(turns >= STEPS / 300, "{what}: the others had {turns} turns");
    }
}

#[tokio::test]
async fn a_connection_read_or_written_by_hand_lets_the_others_have_their_turn() {
    for write in [true, false] {
        let turns = turns_of_others(async move {
            let mut connection = over(Greedy { piece: 1, left: usize::MAX });
            for _ in 0..STEPS {
                if write {
                    connection.write_u8(0).await?;
                } else {
                    connection.read_u8().await?;
                }
            }
            Ok(())
        })
        .await;
        assert!(turns >= STEPS / 300, "the others had {turns} turns");
    }
}

#[tokio::test]
async fn a_transport_that_gives_and_takes_a_byte_at_a_time_lets_the_others_have_their_turn() {
    // One frame, one long answer, and what a close discards.
    let mut long =
        framed(RawBytes, reply_fn(|_: Bytes| Reply::one(vec![b'x'; STEPS]).then_close()));
    let turns = turns_of_others(long.call(over(Greedy { piece: 1, left: STEPS }))).await;
    assert!(turns >= 2 * STEPS / 300, "the others had {turns} turns");
    let mut raw =
        session(Lines::lf(), async |mut s: Session<Lines>| s.raw(STEPS as u64).await.map(drop));
    let turns = turns_of_others(raw.call(over(Greedy { piece: 1, left: STEPS }))).await;
    assert!(turns >= STEPS / 300, "the others had {turns} turns");
    let mut skipped = session(Lines::lf(), async |mut s: Session<Lines>| {
        drop(s.raw_chunks(STEPS as u64)?);
        s.next().await.map(drop)
    });
    let turns = turns_of_others(skipped.call(over(Greedy { piece: 1, left: STEPS }))).await;
    assert!(turns >= STEPS / 300, "the others had {turns} turns");
}

/// The session lives in another task than its connection, and does nothing but this.
fn moved_away(
    what: &'static str,
    sends: Arc<AtomicUsize>,
) -> impl Fn(Session<Lines>) -> std::future::Ready<Result> {
    move |mut s| {
        let sends = Arc::clone(&sends);
        tokio::spawn(async move {
            loop {
                match what {
                    "send" => s.send("tick").await?,
                    "flush" => {
                        s.feed("tick")?;
                        s.flush().await?;
                    }
                    "during" => s.during(ready(())).await?,
                    // It never awaits the session.
                    _ => {
                        s.feed(vec![b'x'; 70_000])?;
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                sends.fetch_add(1, Ordering::SeqCst);
            }
            #[allow(unreachable_code)] // for its type
            Result::<()>::Ok(())
        });
        ready(Ok(()))
    }
}

/// In real time: while a session always has something to do, paused time stands still.
#[tokio::test]
async fn a_session_that_was_moved_away_and_only_sends_is_ended_by_a_stop_and_by_the_deadline_of_a_drain()
 {
    for what in ["send", "flush", "during", "reply"] {
        for how in ["stop", "drain"] {
            let sends = Arc::new(AtomicUsize::new(0));
            let (endpoint, connector) = memory::endpoint();
            let leaf = session(Lines::lf().unlimited(), moved_away(what, Arc::clone(&sends)));
            let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
            let mut client = connector.connect().await.unwrap();
            let reader = tokio::spawn(async move {
                let mut buf = [0; 1 << 16];
                while matches!(client.read(&mut buf).await, Ok(1..)) {}
            });
            server.until("it sends", |_| sends.load(Ordering::SeqCst) > 3).await;
            if how == "stop" {
                server.handle().stop();
            } else {
                server.handle().drain(Duration::from_millis(50));
            }
            assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
            let ended = timeout(Duration::from_secs(60), reader).await;
            ended.unwrap_or_else(|_| panic!("{what} goes on after {how}")).unwrap();
            let before = sends.load(Ordering::SeqCst);
            settle().await;
            assert_eq!(sends.load(Ordering::SeqCst), before, "{what} after {how}");
        }
    }
}
