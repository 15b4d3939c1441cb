//! How a session ends: what was answered arrives, and nothing comes behind the end.

use std::io;
use std::iter;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ropewalk::codec::CodecError;
use ropewalk::{CloseReason, Error, Lines, Netstring, Result, Session, SessionError, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop;
use tokio::time::timeout;

use crate::transports::Scripted;
use crate::wired::{over, settle, wired, wired_with};

async fn echo(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

fn session_error(error: &Error) -> Option<SessionError> {
    error.downcast_ref().copied()
}

#[tokio::test]
async fn answers_before_an_error_arrive() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.feed("one")?;
        s.feed("two")?;
        Err(Error::other("that was all"))
    }));
    w.say("unread input, which makes a careless close a reset\n").await;
    assert_eq!(w.rest().await, "one\ntwo\n");
    let closing = w.closing.clone();
    assert_eq!(w.end().await.unwrap_err().to_string(), "that was all");
    assert_eq!(closing.reason(), Some(CloseReason::ServiceError));
}

#[tokio::test]
async fn frames_before_a_fatal_one_are_answered() {
    let mut w = wired(session(Netstring::new(), async |mut s| {
        while let Some(frame) = s.next().await? {
            s.feed(frame)?;
        }
        Ok(())
    }));
    w.say("1:a,2:bb,garbage").await;
    assert_eq!(w.rest().await, "1:a,2:bb,");
    let closing = w.closing.clone();
    assert!(
        w.end().await.unwrap_err().downcast_ref::<CodecError>().is_some_and(CodecError::is_fatal)
    );
    assert_eq!(closing.reason(), Some(CloseReason::CodecError));
}

#[tokio::test]
async fn a_fatal_error_comes_once_and_then_the_end() {
    let (tell, mut told) = mpsc::channel(4);
    let mut w = wired(session(Lines::lf().max(4), move |mut s: Session<Lines>| {
        let tell = tell.clone();
        async move {
            for _ in 0..3 {
                tell.send(s.next().await.map_err(|e| e.to_string())).await?;
            }
            Ok(())
        }
    }));
    w.say("abcdefgh\nab\n").await;
    assert!(told.recv().await.unwrap().is_err());
    assert_eq!(told.recv().await.unwrap(), Ok(None));
    assert_eq!(told.recv().await.unwrap(), Ok(None));
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_half_frame_at_the_end_of_the_stream_is_an_error() {
    let mut w = wired(session(Lines::crlf(), echo));
    w.say("whole\r\nhalf").await;
    assert_eq!(w.finish().await, "whole\r\n");
    let closing = w.closing.clone();
    assert!(w.end().await.unwrap_err().downcast_ref::<CodecError>().is_some());
    assert_eq!(closing.reason(), Some(CloseReason::CodecError));
}

#[tokio::test]
async fn the_leaf_waits_for_a_session_that_was_moved_away() {
    let (go, wait) = oneshot::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(Some(wait)));
    let mut w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        let wait = wait.lock().unwrap().take();
        async move {
            tokio::spawn(async move {
                drop(wait.unwrap().await);
                s.feed("from elsewhere")
            });
            Ok(())
        }
    }));
    settle().await;
    assert!(!w.task.is_finished(), "the connection is still in use");
    go.send(()).unwrap();
    assert_eq!(w.rest().await, "from elsewhere\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn feed_fails_at_the_write_limit_and_one_frame_may_exceed_it() {
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let mut w = wired_with(
        session(Lines::lf().unlimited(), move |mut s: Session<Lines>| {
            let tell = tell.lock().unwrap().take();
            async move {
                s.feed(vec![b'a'; 2000])?;
                let refused = session_error(&s.feed("b").unwrap_err());
                tell.unwrap().send(refused).unwrap();
                Ok(())
            }
        })
        .write_limit(1000),
        100,
    );
    let refused = told.await.unwrap().unwrap();
    assert_eq!(refused, SessionError::WriteLimit { max: 1000 });
    let text = refused.to_string();
    assert!(text.contains("feed does not wait") && text.contains("use send"), "{text}");
    assert_eq!(w.rest().await.len(), 2001);
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_given_up_after_the_write_stall() {
    let begin = tokio::time::Instant::now();
    let w = wired_with(
        session(Lines::lf().unlimited(), async |mut s| s.send(vec![b'x'; 10_000]).await)
            .write_stall(Duration::from_secs(7)),
        100,
    );
    let (closing, peer) = (w.closing.clone(), w.peer);
    let error = w.task.await.unwrap().unwrap_err();
    assert_eq!(session_error(&error), Some(SessionError::WriteStalled));
    assert_eq!(closing.reason(), Some(CloseReason::Timeout));
    // The close tries to deliver what is left, but gives it no second time.
    assert_eq!(begin.elapsed().as_secs(), 7);
    drop(peer);
}

#[tokio::test]
async fn during_writes_answers_and_notices_a_reset() {
    let (endpoint, connector) = ropewalk::memory::endpoint();
    let server = ropewalk::Server::new()
        .listen(endpoint)
        .serve(session(Lines::lf(), async |mut s| {
            s.next().await?;
            s.feed("working")?;
            s.during(std::future::pending::<()>()).await
        }))
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"go\n").await.unwrap();
    let mut got = [0; 8];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"working\n");
    ropewalk::connection::Io::abort(&mut client);
    drop(client);
    while handle.counts().active() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.counts().closed(CloseReason::PeerReset), 1);
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn during_writes_answers_also_when_the_future_is_ready_at_once() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        for n in 0..3 {
            s.feed(n.to_string())?;
            s.during(std::future::ready(())).await?;
        }
        // The session is of no interest to its author from here on.
        std::future::pending().await
    }));
    timeout(Duration::from_secs(1), w.expect("0\n1\n2\n")).await.unwrap();
    w.task.abort();
}

#[tokio::test(start_paused = true)]
async fn close_delivers_and_lingers_for_two_seconds_at_most() {
    let begin = tokio::time::Instant::now();
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.feed("An apple a day keeps the doctor away")?;
        s.close().await
    }));
    w.say("input nobody reads\n").await;
    assert_eq!(w.rest().await, "An apple a day keeps the doctor away\n");
    // The peer does not close.
    timeout(Duration::from_secs(60), &mut w.task).await.unwrap().unwrap().unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn a_drained_session_hands_out_its_frames_and_may_say_goodbye() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        while let Some(line) = s.next().await? {
            s.feed(line)?;
        }
        assert!(s.is_draining());
        s.feed("bye")
    }));
    w.say("one\n").await;
    w.expect("one\n").await;
    w.say("two\nthree\nhal").await;
    w.closing.drain();
    assert_eq!(w.rest().await, "two\nthree\nbye\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_behind_a_reset() {
    let reads = [Ok(&b"rm -rf /tmp"[..]), Err(io::ErrorKind::ConnectionReset.into()), Ok(&b""[..])];
    let leaf = session(Lines::lf().final_line(), async |mut s| {
        s.next().await.unwrap_err();
        // Half a line and a clean end would be a line.
        assert_eq!(s.next().await?, None);
        Ok(())
    });
    let (_, _, task) = over(Scripted::new(reads), leaf);
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_that_never_yields_still_hands_out_its_frames() {
    let io = Scripted::new(iter::repeat_n(&b"line\n"[..], 10).map(Ok));
    let written = io.written();
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            s.feed(line)?;
            // The runtime now tells it that there is nothing to read.
            while coop::has_budget_remaining() {
                coop::consume_budget().await;
            }
        }
        Ok(())
    });
    let (closing, _, task) = over(io, leaf);
    closing.drain();
    task.await.unwrap().unwrap();
    assert_eq!(written.load(Ordering::SeqCst), 50);
}

#[tokio::test]
async fn a_session_closed_elsewhere_keeps_its_place_until_its_peer_has_taken_the_answers() {
    let leaf = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        tokio::spawn(async move {
            s.feed(vec![b'x'; 10_000])?;
            s.close().await
        });
        Ok(())
    });
    let mut w = wired_with(leaf, 16);
    settle().await;
    assert!(!w.task.is_finished());
    assert_eq!(w.rest().await.len(), 10_001);
    w.end().await.unwrap();
}
