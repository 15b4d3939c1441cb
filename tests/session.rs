//! What a session promises its author.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod wired;

use std::time::Duration;

use bytes::Bytes;
use ropewalk::{
    CloseReason, CodecError, Error, LineOrRaw, LineRaw, Lines, Netstring, Result, Session, SessionError, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wired::{settle, wired, wired_with};

async fn echo(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.reply(line)?;
    }
    Ok(())
}

fn session_error(error: &Error) -> Option<SessionError> {
    error.downcast_ref().copied()
}

#[tokio::test]
async fn a_plain_loop_answers_a_burst_with_one_read_and_one_write() {
    let mut w = wired(session(Lines::crlf(), echo));
    for _ in 0..3 {
        let burst: String = (0..64).map(|i| format!("line {i:058}\r\n")).collect();
        let (reads, writes) = (w.calls.reads(), w.calls.writes());
        w.say(&burst).await;
        w.expect(&burst).await;
        settle().await;
        assert_eq!((w.calls.reads() - reads, w.calls.writes() - writes), (1, 1));
    }
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test]
async fn next_loses_nothing_however_often_it_is_cancelled() {
    let w = wired_with(
        session(Lines::lf(), async |mut s| {
            loop {
                // Polled once, then dropped, most of the time in the middle of a frame.
                let line = tokio::select! {
                    biased;
                    line = s.next() => line?,
                    () = tokio::task::yield_now() => continue,
                };
                match line {
                    Some(line) => s.reply(line)?,
                    None => return Ok(()),
                }
            }
        }),
        7,
    );
    let lines: String = (0..2000).map(|i| format!("{i}\n")).collect();
    let (mut read, mut write) = tokio::io::split(w.peer);
    let sent = lines.clone();
    let writer = tokio::spawn(async move {
        write.write_all(sent.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = String::new();
    read.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, lines);
    writer.await.unwrap();
    w.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_replied_before_an_error_arrives() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.reply("one")?;
        s.reply("two")?;
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
            s.reply(frame)?;
        }
        Ok(())
    }));
    w.say("1:a,2:bb,garbage").await;
    assert_eq!(w.rest().await, "1:a,2:bb,");
    let closing = w.closing.clone();
    assert!(w.end().await.unwrap_err().downcast_ref::<CodecError>().is_some_and(CodecError::is_fatal));
    assert_eq!(closing.reason(), Some(CloseReason::CodecError));
}

#[tokio::test]
async fn a_recoverable_error_comes_once_and_frames_go_on() {
    let mut w = wired(session(Lines::lf().max(4).skip_too_long(), async |mut s| {
        loop {
            match s.next().await {
                Ok(Some(line)) => s.reply(line)?,
                Ok(None) => return Ok(()),
                Err(e) if e.is_recoverable() => s.reply("500 line too long").or_else(|_| s.reply("500"))?,
                Err(e) => return Err(e),
            }
        }
    }));
    w.say("ab\nabcdefgh\ncd\n").await;
    assert_eq!(w.finish().await, "ab\n500\ncd\n");
    w.end().await.unwrap();
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
                s.reply("from elsewhere")
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
async fn a_client_that_never_reads_is_not_read_from_beyond_a_bound() {
    let mut w = wired_with(session(Lines::lf(), echo), 1024);
    let line = "a line of text\n".repeat(64).into_bytes();
    let mut sent = 0;
    // Until nothing more goes in: the session has stopped reading.
    loop {
        settle().await;
        match futures_now(w.peer.write(&line)).await {
            Some(n) => sent += n,
            None => break,
        }
        assert!(sent < 1 << 20, "it goes on reading");
    }
    assert!(sent > 64 * 1024, "it stops below the high-water mark: {sent}");
}

/// The output of a future that is ready at its first poll.
async fn futures_now<T>(future: impl Future<Output = std::io::Result<T>>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output.unwrap()),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn reply_fails_at_the_write_limit_and_one_frame_may_exceed_it() {
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let mut w = wired_with(
        session(Lines::lf().unlimited(), move |mut s: Session<Lines>| {
            let tell = tell.lock().unwrap().take();
            async move {
                s.reply(vec![b'a'; 2000])?;
                let refused = session_error(&s.reply("b").unwrap_err());
                tell.unwrap().send(refused).unwrap();
                Ok(())
            }
        })
        .write_limit(1000),
        100,
    );
    assert_eq!(told.await.unwrap(), Some(SessionError::WriteLimit { max: 1000 }));
    assert_eq!(w.rest().await.len(), 2001);
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_cancelled_send_leaves_its_frame_whole() {
    let mut w = wired_with(
        session(Lines::lf(), async |mut s| {
            for i in 0..100 {
                tokio::select! {
                    biased;
                    sent = s.send(format!("frame number {i}")) => sent?,
                    () = std::future::ready(()) => {}
                }
            }
            Ok(())
        }),
        10,
    );
    let expected: String = (0..100).map(|i| format!("frame number {i}\n")).collect();
    assert_eq!(w.rest().await, expected);
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
async fn two_peers_that_both_write_first_do_not_wait_for_each_other() {
    let mut w = wired_with(
        session(Lines::lf().unlimited(), async |mut s| {
            s.send(vec![b'a'; 40_000]).await?;
            let line = s.next().await?.unwrap_or_default();
            s.reply(line.len().to_string())
        }),
        100,
    );
    let mut line = vec![b'b'; 40_000];
    line.push(b'\n');
    w.say(&line).await;
    let rest = w.rest().await;
    assert_eq!(rest.len(), 40_000 + 1 + "40000\n".len());
    assert!(rest.ends_with("\n40000\n"));
    w.end().await.unwrap();
}

#[tokio::test]
async fn during_writes_what_was_replied_and_notices_a_reset() {
    let (endpoint, connector) = ropewalk::memory::endpoint();
    let server = ropewalk::Server::new()
        .listen(endpoint)
        .serve(session(Lines::lf(), async |mut s| {
            s.next().await?;
            s.reply("working")?;
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
    ropewalk::Io::abort(&mut client);
    drop(client);
    while handle.counts().active() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.counts().closed(CloseReason::PeerReset), 1);
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_half_closed_peer_still_gets_its_answers() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        while let Some(line) = s.next().await? {
            s.during(async { settle().await }).await?;
            s.reply(line)?;
        }
        s.reply("bye")
    }));
    w.say("a\nb\nc\n").await;
    assert_eq!(w.finish().await, "a\nb\nc\nbye\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_delivers_and_lingers_for_two_seconds_at_most() {
    let begin = tokio::time::Instant::now();
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.reply("An apple a day keeps the doctor away")?;
        s.close().await
    }));
    w.say("input nobody reads\n").await;
    assert_eq!(w.rest().await, "An apple a day keeps the doctor away\n");
    // The peer does not close.
    timeout(Duration::from_secs(60), &mut w.task).await.unwrap().unwrap().unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn a_drained_session_hands_out_what_it_has_and_may_say_goodbye() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        while let Some(line) = s.next().await? {
            s.reply(line)?;
        }
        assert!(s.is_draining());
        s.reply("bye")
    }));
    w.say("one\n").await;
    w.expect("one\n").await;
    w.say("two\nthree\nhal").await;
    w.closing.drain();
    assert_eq!(w.rest().await, "two\nthree\nbye\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_session_goes_on_with_another_codec() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        assert_eq!(s.next().await?, Some(Bytes::from_static(b"netstrings")));
        let mut s = s.switch(Netstring::new())?;
        while let Some(frame) = s.next().await? {
            s.reply(frame)?;
        }
        Ok(())
    }));
    w.say("netstrings\n3:abc,").await;
    w.expect("3:abc,").await;
    w.say("1:\n,").await;
    assert_eq!(w.finish().await, "1:\n,");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_codec_that_switches_itself_keeps_every_byte() {
    let mut w = wired(session(LineRaw::lf(), async |mut s| {
        while let Some(item) = s.next().await? {
            match item {
                LineOrRaw::Line(line) => match line.strip_prefix(b"raw ") {
                    Some(n) => s.codec_mut()?.raw(std::str::from_utf8(n)?.parse()?),
                    None => s.reply(line)?,
                },
                LineOrRaw::Raw(raw) => s.reply(LineOrRaw::Raw(raw))?,
            }
        }
        Ok(())
    }));
    let stream = "raw 5\na\nb\ncline\nraw 0\nraw 1\n\nend\n";
    for byte in stream.bytes() {
        w.say([byte]).await;
        settle().await;
    }
    assert_eq!(w.finish().await, "a\nb\ncline\n\nend\n");
    w.end().await.unwrap();
}
