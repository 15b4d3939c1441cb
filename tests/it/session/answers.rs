//! Answers of a session that wait for room.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use ropewalk::{Error, Lines, Reply, Session, SessionError, session};
use tokio::time::sleep;

use crate::wired::{settle, wired_with};

/// More than the write limit of a session.
const LINES: usize = 3000;
const LINE: usize = 1024;

fn line() -> Bytes {
    Bytes::from(vec![b'x'; LINE - 1])
}

#[tokio::test(start_paused = true)]
async fn where_feed_fails_at_the_write_limit_feed_wait_waits_for_the_peer() {
    let most = Arc::new(AtomicUsize::new(0));
    let queued = Arc::clone(&most);
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let queued = Arc::clone(&queued);
        async move {
            for _ in 0..LINES {
                s.feed_wait(line()).await?;
                queued.fetch_max(s.queued(), Ordering::Relaxed);
            }
            s.flush().await?;
            assert_eq!(s.queued(), 0);
            while s.feed(line()).is_ok() {}
            Ok(())
        }
    });
    let mut w = wired_with(leaf, 4096);
    settle().await;
    let mut all = vec![0; LINES * LINE];
    tokio::io::AsyncReadExt::read_exact(&mut w.peer, &mut all).await.unwrap();
    assert!(all == [&line()[..], b"\n"].concat().repeat(LINES));
    let most = most.load(Ordering::Relaxed);
    assert!((60 * 1024..=64 * 1024 + LINE).contains(&most), "{most} bytes");
    w.closing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_a_feed_wait_that_is_dropped_while_it_waits_is_not_queued() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        for _ in 0..100 {
            s.feed(line())?;
        }
        let queued = s.queued();
        tokio::select! {
            biased;
            _ = s.feed_wait("lost") => unreachable!("the peer does not read"),
            () = tokio::task::yield_now() => {}
        }
        assert!(s.queued() <= queued);
        s.feed_wait("kept").await
    });
    let mut w = wired_with(leaf, 64);
    let all = w.rest().await;
    assert!(all.ends_with("xxx\nkept\n"));
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_answers_with_whatever_a_service_may_answer_with() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            let flow = match &line[..] {
                b"one" => s.answer("1").await?,
                b"none" => s.answer(None::<Bytes>).await?,
                b"many" => s.answer(Reply::many(vec![line.clone(); LINES])).await?,
                b"stream" => {
                    let slow = stream::iter(["a", "b"]).then(|frame| async move {
                        sleep(std::time::Duration::from_secs(1)).await;
                        Ok(frame)
                    });
                    s.answer(Reply::stream(slow)).await?
                }
                b"broken" => {
                    let broken =
                        stream::iter([Ok("before"), Err(Error::other("it broke")), Ok("behind")]);
                    let error = s.answer(Reply::stream(broken)).await.unwrap_err();
                    s.answer(error.to_string()).await?
                }
                _ => s.answer(Reply::one("bye").then_close()).await?,
            };
            if flow == ControlFlow::Break(()) {
                return Ok(());
            }
        }
        Err(SessionError::Aborted.into())
    });
    let mut w = wired_with(leaf, 1024);
    w.say("one\nnone\nmany\nstream\nbroken\nquit\nlate\n").await;
    let all = w.rest().await;
    assert!(
        all == format!("1\n{}a\nb\nbefore\nit broke\nbye\n", "many\n".repeat(LINES)),
        "{} bytes",
        all.len()
    );
    w.end().await.unwrap();
}
