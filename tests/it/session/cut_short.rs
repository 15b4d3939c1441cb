//! Sessions whose author gives something up, or does less than usual: nothing is lost, and no
//! deadline with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk::connection::Stream;
use ropewalk::{
    Addr, CloseReason, Connection, Lines, Peer, ReadDeadlineLayer, Result, Session, SessionError,
    session,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service};

use crate::wired::{settle, wired, wired_with};

const SECOND: Duration = Duration::from_secs(1);

async fn echo(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_given_up_while_it_writes_is_finished_by_the_leaf() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.feed(vec![b'x'; 5000])?;
        assert!(timeout(SECOND, s.close()).await.is_err());
        Ok(())
    });
    let mut w = wired_with(leaf, 64);
    sleep(SECOND * 2).await;
    assert_eq!(w.rest().await.len(), 5001);
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_that_has_written_leaves_the_linger_to_the_leaf() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.feed("bye")?;
        s.close().await?;
        sleep(SECOND).await;
        Ok(())
    });
    let mut w = wired(leaf);
    let begun = Instant::now();
    assert_eq!(w.rest().await, "bye\n");
    // The peer keeps its side open, and what it says is read, for as long as any close lingers.
    w.say("thanks\n").await;
    (&mut w.task).await.unwrap().unwrap();
    assert_eq!(begun.elapsed(), SECOND * 3);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_fails_breaks_the_connection_once() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.feed(vec![b'x'; 5000])?;
        s.close().await
    });
    let w = wired_with(leaf.write_stall(SECOND), 64);
    let closing = w.closing.clone();
    let error = w.task.await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&SessionError::WriteStalled));
    assert_eq!(closing.reason(), Some(CloseReason::Timeout));
}

#[tokio::test]
async fn a_low_write_limit_slows_a_reading_peer_down_and_does_not_end_it() {
    let mut w = wired(session(Lines::lf(), echo).write_limit(1000));
    let lines = "123456789\n".repeat(500);
    w.say(&lines).await;
    assert_eq!(w.finish().await, lines);
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_elsewhere_does_not_cost_this_session_its_answers() {
    for error in [SessionError::WriteStalled, SessionError::WriteLimit { max: 1 }] {
        let mut w = wired(session(Lines::lf(), move |mut s: Session<Lines>| async move {
            s.feed("one")?;
            Err(error.into())
        }));
        assert_eq!(w.rest().await, "one\n");
        assert_eq!(w.end().await.unwrap_err().downcast_ref(), Some(&error));
    }
}

#[tokio::test(start_paused = true)]
async fn no_raw_bytes_are_no_first_frame() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        assert_eq!(s.raw(0).await?, "");
        echo(s).await
    });
    let begun = Instant::now();
    let mut w = wired(ReadDeadlineLayer::new().layer(leaf));
    assert_eq!(w.rest().await, "");
    assert_eq!(begun.elapsed(), SECOND * 10);
    let closing = w.closing.clone();
    w.end().await.unwrap_err();
    assert_eq!(closing.reason(), Some(CloseReason::FirstFrameTimeout));
}

#[tokio::test]
async fn a_session_function_is_called_in_the_connections_own_task() {
    let called = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&called);
    let mut leaf = session(Lines::lf(), move |s: Session<Lines>| {
        tell.store(true, Ordering::SeqCst);
        echo(s)
    });
    let (_peer, io) = tokio::net::UnixStream::pair().unwrap();
    let future = leaf.call(Connection::new(Stream::from(io), Peer::new(Addr::Memory)));
    assert!(!called.load(Ordering::SeqCst), "the accept loop calls it");
    let task = tokio::spawn(future);
    settle().await;
    assert!(called.load(Ordering::SeqCst));
    task.abort();
}

/// Answers a line that is too long as well.
async fn patient(mut s: Session<Lines>) -> Result {
    s.set_read_deadlines(s.read_deadlines().idle(None));
    loop {
        match s.next().await {
            Ok(Some(line)) => s.feed(line)?,
            Ok(None) => return Ok(()),
            Err(error) if error.is_recoverable() => s.feed("long")?,
            Err(error) => return Err(error),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_skipped_line_is_no_beginning_of_a_frame() {
    for pieces in
        [&["123456789\n"][..], &["123456789", "\n"], &["123456789\r\n"], &["12345678", "9\r", "\n"]]
    {
        let of_lf = [Lines::lf(), Lines::any(), Lines::delimited("9\r\n"), Lines::crlf()];
        for codec in of_lf.into_iter().take(if pieces.concat().ends_with("\r\n") { 4 } else { 2 }) {
            let leaf = session(codec.max(4).skip_too_long(), patient);
            let mut w = wired(ReadDeadlineLayer::new().layer(leaf));
            for piece in pieces {
                w.say(piece).await;
                settle().await;
            }
            sleep(SECOND * 3600).await;
            assert!(!w.task.is_finished(), "{pieces:?}");
            w.task.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_skipped_line_without_its_end_is_an_unfinished_frame() {
    for line in ["12345678", "123456789\r"] {
        let leaf = session(Lines::crlf().max(4).skip_too_long(), patient);
        let begun = Instant::now();
        let mut w = wired(ReadDeadlineLayer::new().layer(leaf));
        w.say(line).await;
        assert_eq!(w.rest().await, "long\r\n");
        assert_eq!(begun.elapsed(), SECOND * 30);
        let closing = w.closing.clone();
        w.end().await.unwrap_err();
        assert_eq!(closing.reason(), Some(CloseReason::FrameTimeout));
    }
}
