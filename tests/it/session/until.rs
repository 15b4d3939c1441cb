//! A session that lends itself to a service of frames until a certain frame arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{
    CallLimitLayer, Error, Lines, Outbox, Reply, Result, Room, Session, SlowConsumer, reply_fn,
    service_fn, session,
};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::sleep;
use tower::Layer;

use crate::wired::{settle, wired};

#[tokio::test(start_paused = true)]
async fn frames_are_served_until_the_one_that_is_returned_and_nothing_behind_it_is_decoded() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        let mut count = 0;
        let mut service = reply_fn(move |line: Bytes| {
            count += 1;
            format!("{count} {}", String::from_utf8_lossy(&line))
        });
        while let Some(line) = s.drive_until(&mut service, |line| line.starts_with(b"raw")).await? {
            s.feed(line)?;
            let raw = s.raw(4).await?;
            s.feed_raw(raw)?;
        }
        s.feed("end")
    }));
    w.say("a\nb\nraw x\n\n\n\n\nc\nraw y\nwxyzd\n").await;
    assert_eq!(w.finish().await, "1 a\n2 b\nraw x\n\n\n\n\n3 c\nraw y\nwxyz4 d\nend\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_calls_before_the_frame_are_answered_first() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        let mut slow = service_fn(async |line: Bytes| {
            sleep(Duration::from_secs(5)).await;
            Ok(Reply::many([line.clone(), line]))
        });
        let until = s.drive_until(&mut slow, |line| line == "stop").await?;
        s.feed(until.unwrap())?;
        Ok(())
    }));
    w.say("a\nb\nstop\nc\n").await;
    assert_eq!(w.rest().await, "a\na\nb\nb\nstop\n");
    w.end().await.unwrap();
}

/// The frame that ends the drive must not take a permit that no call will use.
#[tokio::test(start_paused = true)]
async fn the_frame_that_ends_it_reserves_nothing_of_the_service() {
    let limit = CallLimitLayer::new(1);
    let active = limit.clone();
    let served = limit.layer(service_fn(async |line: Bytes| Ok(Reply::one(line))));
    let mut w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        let (mut served, active) = (served.clone(), active.clone());
        async move {
            s.drive_until(&mut served, |line| line == "stop").await?;
            s.feed(format!("{} active", active.active()))?;
            // Its service is there still, idle, and another one gets the slot.
            let mut other = served.clone();
            s.drive_until(&mut other, |_| false).await?;
            drop(served);
            Ok(())
        }
    }));
    w.say("a\nstop\n").await;
    w.expect("a\n0 active\n").await;
    w.say("b\n").await;
    w.expect("b\n").await;
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_closes_and_the_end_of_the_input_end_it_without_a_frame() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        let mut service = reply_fn(|line: Bytes| match &line[..] {
            b"quit" => Reply::one("bye").then_close(),
            _ => Reply::one("hi"),
        });
        let end = s.drive_until(&mut service, |_| false).await?;
        assert_eq!(end, None);
        s.feed("over")
    });
    let mut w = wired(leaf.clone());
    w.say("a\nquit\nb\n").await;
    assert_eq!(w.rest().await, "hi\nbye\nover\n");
    w.end().await.unwrap();
    let mut w = wired(leaf);
    w.say("a\n").await;
    assert_eq!(w.finish().await, "hi\nover\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_an_error_of_the_service_the_session_goes_on() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        let mut service = service_fn(async |line: Bytes| match &line[..] {
            b"bad" => Err(Error::other("it was bad")),
            _ => Ok(Some(line)),
        });
        loop {
            match s.drive_until(&mut service, |_| false).await {
                Ok(_) => return Ok(()),
                Err(error) => s.feed(error.to_string())?,
            }
        }
    }));
    w.say("a\nbad\nb\n").await;
    assert_eq!(w.finish().await, "a\nit was bad\nb\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pushed_frames_are_written_between_its_answers() {
    let (tell, mut told) = unbounded_channel();
    let mut w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        let tell = tell.clone();
        async move {
            let outbox: Outbox<Bytes> = s.outbox(8, SlowConsumer::Refuse);
            tell.send(outbox.clone()).unwrap();
            let mut slow = service_fn(async |line: Bytes| {
                sleep(Duration::from_secs(5)).await;
                Ok(line)
            });
            s.drive_until(&mut slow, |line| line == "stop").await?;
            s.feed("stopped")
        }
    }));
    let outbox = told.recv().await.unwrap();
    settle().await;
    outbox.push("while it is idle".into()).unwrap();
    w.expect("while it is idle\n").await;
    w.say("call\n").await;
    settle().await;
    outbox.push("during a call".into()).unwrap();
    w.expect("during a call\ncall\n").await;
    outbox.push("at the end".into()).unwrap();
    assert_eq!(w.finish().await, "at the end\nstopped\n");
    assert!(outbox.is_closed());
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_it_after_the_frames_that_had_arrived() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        let mut service = reply_fn(|line: Bytes| line);
        let end = s.drive_until(&mut service, |_| false).await?;
        s.feed(format!("{end:?} {}", s.is_draining()))
    }));
    settle().await;
    w.say("a\nb\n").await;
    w.closing.drain();
    assert_eq!(w.rest().await, "a\nb\nNone true\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_it() {
    let ends = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ends);
    let w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        let ends = Arc::clone(&counted);
        async move {
            let error =
                s.drive_until(&mut reply_fn(|line: Bytes| line), |_| false).await.unwrap_err();
            ends.fetch_add(1, Ordering::Relaxed);
            Err(error)
        }
    }));
    settle().await;
    w.closing.abort();
    assert!(w.end().await.is_err());
    assert_eq!(ends.load(Ordering::Relaxed), 1);
}

/// The peer of a session that has closed may keep its side open for as long as a lingering close
/// lasts.
#[tokio::test(start_paused = true)]
async fn close_does_not_keep_the_values_of_the_function_while_the_peer_is_still_there() {
    let room: Room<Bytes> = Room::new();
    let joined = room.clone();
    let mut w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        let room = joined.clone();
        async move {
            let _me = room.join(s.outbox(8, SlowConsumer::Refuse));
            s.feed("bye")?;
            s.close().await
        }
    }));
    assert_eq!(w.rest().await, "bye\n");
    settle().await;
    assert!(room.is_empty(), "the function's values live on");
    assert!(
        !w.task.is_finished(),
        "the connection lingers, so that a reset can't destroy the answer"
    );
    w.say("unread").await;
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_half_closes_before_it_returns() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        s.feed("bye")?;
        s.close().await?;
        sleep(Duration::from_secs(3600)).await;
        Ok(())
    }));
    let begun = tokio::time::Instant::now();
    assert_eq!(w.rest().await, "bye\n");
    assert!(begun.elapsed() < Duration::from_secs(1));
    let result: Result = w.end().await;
    result.unwrap();
}
