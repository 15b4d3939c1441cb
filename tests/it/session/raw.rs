//! Raw sections of a session.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{Lines, Result, Session, SessionError, session};

use crate::wired::{settle, wired};

/// `PUT n` and n raw bytes are answered with the bytes, reversed, as a line.
async fn put(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        let n: u64 = std::str::from_utf8(&line)?.strip_prefix("PUT ").unwrap_or("0").parse()?;
        let raw = s.raw(n).await?;
        s.feed(raw.iter().rev().copied().collect::<Vec<u8>>())?;
    }
    Ok(())
}

#[tokio::test]
async fn raw_bytes_are_exact_at_every_split() {
    let stream = b"PUT 5\r\nab\r\nPPUT 0\r\nPUT 1\r\n\rPUT 3\r\nxyz";
    for split in 0..=stream.len() {
        let mut w = wired(session(Lines::lf(), put_crlf));
        w.say(&stream[..split]).await;
        settle().await;
        w.say(&stream[split..]).await;
        assert_eq!(
            w.finish().await,
            "P\n\rba\r\n\r\n\r\r\nzyx\r\n".replace("\r\n", "|").replace('|', "\r\n")
        );
        w.end().await.unwrap();
    }
}

/// The same, with CRLF lines.
async fn put_crlf(s: Session<Lines>) -> Result {
    put(s.switch(Lines::crlf())?).await
}

#[tokio::test]
async fn a_cancelled_raw_has_taken_nothing() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.next().await?;
        for _ in 0..10 {
            tokio::select! {
                biased;
                raw = s.raw(6) => panic!("there are only three bytes: {raw:?}"),
                () = settle() => {}
            }
        }
        s.feed("now")?;
        s.flush().await?;
        let raw = s.raw(6).await?;
        s.feed(raw)
    }));
    w.say("go\nabc").await;
    w.expect("now\n").await;
    w.say("def").await;
    assert_eq!(w.rest().await, "abcdef\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn more_than_the_limit_is_refused_before_anything_is_read() {
    let mut w = wired(
        session(Lines::lf(), async |mut s| {
            s.next().await?;
            let error = s.raw(11).await.unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&SessionError::RawTooLong { max: 10 }));
            let line = s.next().await?.unwrap_or_default();
            s.feed(line)
        })
        .raw_limit(10),
    );
    w.say("go\nstill a line\n").await;
    assert_eq!(w.rest().await, "still a line\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn raw_and_switch_are_refused_in_the_middle_of_a_frame() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        tokio::select! {
            biased;
            line = s.next() => panic!("no line has come: {line:?}"),
            () = settle() => {}
        }
        assert_eq!(s.raw(1).await.unwrap_err().downcast_ref(), Some(&SessionError::MidFrame));
        assert_eq!(s.raw_chunks(1).unwrap_err().downcast_ref(), Some(&SessionError::MidFrame));
        assert_eq!(s.codec_mut().unwrap_err().downcast_ref(), Some(&SessionError::MidFrame));
        let line = s.next().await?.unwrap_or_default();
        s.feed(line)?;
        s.raw(1).await?;
        assert_eq!(s.next().await?, Some(Bytes::from_static(b"rest")));
        Ok(())
    }));
    w.say("half").await;
    settle().await;
    settle().await;
    w.say(" a line\n.rest\n").await;
    w.expect("half a line\n").await;
    w.end().await.unwrap();
}

#[tokio::test]
async fn raw_bytes_cut_short_are_an_error_that_says_how_many_are_missing() {
    let mut w = wired(session(Lines::lf(), put));
    w.say("PUT 10\nabc").await;
    assert_eq!(w.finish().await, "");
    let error = w.end().await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&SessionError::Truncated { missing: 7 }));
}

#[tokio::test]
async fn chunks_carry_more_than_fits_and_nothing_else() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.next().await?;
        let (mut sum, mut chunks) = (0, s.raw_chunks(3_000_000)?);
        while let Some(chunk) = chunks.next().await? {
            assert!(!chunk.is_empty() && chunk.len() <= 64 * 1024);
            assert!(chunk.iter().all(|b| *b == b'\n'));
            sum += chunk.len();
        }
        drop(chunks);
        s.feed(sum.to_string())?;
        let line = s.next().await?.unwrap_or_default();
        s.feed(line)
    }));
    w.say("go\n").await;
    w.say(vec![b'\n'; 3_000_000]).await;
    w.say("and a line\n").await;
    assert_eq!(w.rest().await, "3000000\nand a line\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn the_rest_of_chunks_dropped_early_is_discarded() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        while let Some(line) = s.next().await? {
            s.feed(line)?;
            let mut chunks = s.raw_chunks(200_000)?;
            chunks.next().await?;
            assert!(chunks.remaining() > 0);
        }
        Ok(())
    }));
    for i in 0..3 {
        w.say(format!("line {i}\n")).await;
        w.say(vec![b'\n'; 200_000]).await;
    }
    assert_eq!(w.finish().await, "line 0\nline 1\nline 2\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn a_drain_lets_the_raw_bytes_of_a_request_come() {
    let mut w = wired(session(Lines::lf(), put));
    w.say("PUT 6\nabc").await;
    settle().await;
    w.closing.drain();
    settle().await;
    w.say("def").await;
    assert_eq!(w.rest().await, "fedcba\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn raw_bytes_go_out_as_they_are_and_in_order() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.feed("5")?;
        s.feed_raw(b"a\nb\n\0")?;
        s.feed("end")
    }));
    assert_eq!(w.rest().await, "5\na\nb\n\0end\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn sections_dropped_early_add_up() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.next().await?;
        drop(s.raw_chunks(4)?);
        drop(s.raw_chunks(4)?);
        let line = s.next().await?.unwrap_or_default();
        s.feed(line)
    }));
    w.say("go\n11112222line\n").await;
    assert_eq!(w.rest().await, "line\n");
    w.end().await.unwrap();
}

#[test]
fn a_stream_that_ends_within_a_section_dropped_early_is_an_error() {
    let (tell, told) = mpsc::channel();
    // In a thread of its own: what went wrong was a poll that never returned.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tell.send(runtime.block_on(async {
            let mut w = wired(session(Lines::lf(), async |mut s| {
                while s.next().await?.is_some() {
                    drop(s.raw_chunks(10)?);
                }
                Ok(())
            }));
            w.say("go\nabc").await;
            assert_eq!(w.finish().await, "");
            w.end().await.unwrap_err()
        }))
    });
    let error = told.recv_timeout(Duration::from_secs(60)).expect("it fails or never ends");
    assert_eq!(error.downcast_ref(), Some(&SessionError::Truncated { missing: 7 }));
}

#[tokio::test]
async fn sections_dropped_early_may_add_up_to_more_than_can_be_counted() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        s.next().await?;
        drop(s.raw_chunks(u64::MAX)?);
        s.raw(10).await.map(drop)
    }));
    w.say("go\nabc").await;
    assert_eq!(w.finish().await, "");
    let error = w.end().await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SessionError::Truncated { .. })), "{error}");
}

#[tokio::test]
async fn a_drain_lets_an_upload_come_of_more_than_a_kernel_holds() {
    let mut w = wired(session(Lines::lf(), async |mut s| {
        while let Some(line) = s.next().await? {
            let mut chunks = s.raw_chunks(std::str::from_utf8(&line)?.parse()?)?;
            let mut sum = 0;
            while let Some(chunk) = chunks.next().await? {
                sum += chunk.len();
            }
            drop(chunks);
            s.feed(sum.to_string())?;
        }
        Ok(())
    }));
    let upload = vec![0; 9 << 20];
    w.say(format!("{}\n", upload.len())).await;
    w.closing.drain();
    w.say(&upload).await;
    assert_eq!(w.rest().await, format!("{}\n", upload.len()));
    w.end().await.unwrap();
}
