//! Answers that can't be sent, and answers that are the last.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use ropewalk::{
    CloseReason, CodecExt, Error, Lines, Reply, Session, SessionError, framed, reply_fn,
    service_fn, session,
};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::wired::{settle, wired};

/// A line that [`Lines::any`] reads and does not write.
const ENDS_WITH_CR: &str = "a\r\r\n";

#[tokio::test]
async fn an_answer_that_can_not_be_encoded_is_on_errors() {
    let leaf =
        framed(Lines::any(), reply_fn(|line: Bytes| line)).on_error(|_: &Error| Bytes::from("500"));
    let mut w = wired(leaf);
    w.say(["x\n", ENDS_WITH_CR, "y\n"].concat()).await;
    assert_eq!(w.finish().await, "x\n500\ny\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn without_on_error_it_ends_the_connection_behind_the_answers_before() {
    let mut w = wired(framed(Lines::any(), reply_fn(|line: Bytes| line)));
    w.say(["x\n", ENDS_WITH_CR, "y\n"].concat()).await;
    assert_eq!(w.rest().await, "x\n");
    let closing = w.closing.clone();
    w.end().await.unwrap_err();
    assert_eq!(closing.reason(), Some(CloseReason::CodecError));
}

#[tokio::test]
async fn the_answer_to_an_error_has_no_second_try() {
    let leaf = framed(Lines::any(), reply_fn(|line: Bytes| line))
        .on_error(|_: &Error| Bytes::from("no\r"));
    let mut w = wired(leaf);
    w.say(["x\n", ENDS_WITH_CR, "y\n"].concat()).await;
    assert_eq!(w.rest().await, "x\n");
    w.end().await.unwrap_err();
}

#[tokio::test]
async fn in_the_place_of_a_last_answer_that_fails_the_error_is_the_last() {
    let service = reply_fn(|_: Bytes| Reply::many(["one", "two\r", "three"]).then_close());
    let mut w = wired(framed(Lines::any(), service).on_error(|_: &Error| "500"));
    w.say("a\nb\n").await;
    assert_eq!(w.rest().await, "one\n500\n");
    w.end().await.unwrap();
}

/// A stream that comes upon the slow reader of another connection.
fn broken(_: Bytes) -> Reply<&'static str> {
    Reply::stream(stream::iter([Ok("one"), Err(SessionError::WriteStalled.into()), Ok("two")]))
}

#[tokio::test]
async fn a_stream_that_fails_ends_the_connection_behind_its_earlier_answers() {
    let mut w = wired(framed(Lines::lf(), reply_fn(broken)));
    w.say("a\nb\n").await;
    assert_eq!(w.rest().await, "one\n");
    let closing = w.closing.clone();
    w.end().await.unwrap_err();
    assert_eq!(closing.reason(), Some(CloseReason::ServiceError));
}

#[tokio::test]
async fn a_stream_that_fails_is_on_errors() {
    let mut w = wired(framed(Lines::lf(), reply_fn(broken)).on_error(|_: &Error| "500"));
    w.say("a\nb\n").await;
    assert_eq!(w.finish().await, "one\n500\none\n500\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn without_an_order_the_calls_under_way_are_answered_before_the_close() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let service = service_fn(move |line: Bytes| {
        let wait = Arc::clone(&wait);
        async move {
            if line == "quit" {
                return Ok(Reply::one(line).then_close());
            }
            wait.notified().await;
            Ok(Reply::one(line))
        }
    });
    let mut w = wired(framed(Lines::lf(), service).unordered(4));
    w.say("a\nquit\n").await;
    w.expect("quit\n").await;
    w.say("too late\n").await;
    settle().await;
    go.notify_waiters();
    assert_eq!(w.rest().await, "a\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_behind_an_answer_that_closes_is_answered() {
    // The frame behind it is not a command: an error, which is known long before the answer.
    let codec = || {
        Lines::lf()
            .try_map(|line: Bytes| if line == "bad" { Err("no such command") } else { Ok(line) })
    };
    let service = || {
        service_fn(async |line: Bytes| {
            match &line[..] {
                b"slow" => sleep(Duration::from_secs(2)).await,
                b"quit" => {
                    sleep(Duration::from_secs(1)).await;
                    return Ok(Reply::one(line).then_close());
                }
                _ => {}
            }
            Ok(Reply::one(line))
        })
    };
    let on_error = |_: &Error| Bytes::from("500");
    let unordered = wired(framed(codec(), service()).unordered(4).on_error(on_error));
    let unhandled = wired(framed(codec(), service()).unordered(4));
    let driven =
        wired(session(codec(), move |s: Session<_>| s.drive(service()).unordered(4).into_future()));
    for mut w in [unordered, unhandled, driven] {
        w.say("slow\nquit\nbad\nx\n").await;
        assert_eq!(w.rest().await, "quit\nslow\n");
        w.end().await.unwrap();
    }
    let ordered = wired(framed(codec(), service()).concurrent(4).on_error(on_error));
    let one_by_one = wired(framed(codec(), service()).on_error(on_error));
    for mut w in [ordered, one_by_one] {
        w.say("slow\nquit\nbad\nx\n").await;
        assert_eq!(w.rest().await, "slow\nquit\n");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_behind_a_slow_call_is_answered_as_soon_as_the_call_is() {
    let service = || {
        service_fn(async |line: Bytes| {
            sleep(Duration::from_millis(50)).await;
            Ok(line)
        })
    };
    let leaf = || framed(Lines::any().max(3), service()).on_error(|_: &Error| Bytes::from("500"));
    for mut w in [wired(leaf().concurrent(4)), wired(leaf().unordered(4))] {
        w.say("one\ntoo long\n").await;
        let mut heard = [0; 8];
        let all = w.peer.read_exact(&mut heard);
        timeout(Duration::from_millis(60), all).await.expect("the peer waits for it").unwrap();
        assert_eq!(&heard, b"one\n500\n");
    }
}
