//! What a session promises its author.

use bytes::Bytes;
use ropewalk::codec::LineOrRaw;
use ropewalk::{LineRaw, Lines, Netstring, Result, Session, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wired::{settle, wired, wired_with};

async fn echo(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
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
                    Some(line) => s.feed(line)?,
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
async fn a_recoverable_error_comes_once_and_frames_go_on() {
    let mut w = wired(session(Lines::lf().max(4).skip_too_long(), async |mut s| {
        loop {
            match s.next().await {
                Ok(Some(line)) => s.feed(line)?,
                Ok(None) => return Ok(()),
                Err(e) if e.is_recoverable() => {
                    s.feed("500 line too long").or_else(|_| s.feed("500"))?;
                }
                Err(e) => return Err(e),
            }
        }
    }));
    w.say("ab\nabcdefgh\ncd\n").await;
    assert_eq!(w.finish().await, "ab\n500\ncd\n");
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

#[tokio::test]
async fn two_peers_that_both_write_first_do_not_wait_for_each_other() {
    let mut w = wired_with(
        session(Lines::lf().unlimited(), async |mut s| {
            s.send(vec![b'a'; 40_000]).await?;
            let line = s.next().await?.unwrap_or_default();
            s.feed(line.len().to_string())
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
async fn a_half_closed_peer_still_gets_its_answers() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        while let Some(line) = s.next().await? {
            s.during(async { settle().await }).await?;
            s.feed(line)?;
        }
        s.feed("bye")
    }));
    w.say("a\nb\nc\n").await;
    assert_eq!(w.finish().await, "a\nb\nc\nbye\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_session_goes_on_with_another_codec() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        assert_eq!(s.next().await?, Some(Bytes::from_static(b"netstrings")));
        let mut s = s.switch(Netstring::new())?;
        while let Some(frame) = s.next().await? {
            s.feed(frame)?;
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
                    None => s.feed(line)?,
                },
                LineOrRaw::Raw(raw) => s.feed(LineOrRaw::Raw(raw))?,
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
