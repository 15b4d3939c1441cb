//! The last word of a connection that drains, and a panic as an answer.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::codec::CodecError;
use ropewalk::layer::{CallPanicked, CatchPanicLayer};
use ropewalk::{
    Connection, Error, Lines, Outbox, Reply, Result, Session, SlowConsumer, framed, per_connection,
    reply_fn, service_fn, session,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower::util::BoxService;

use crate::wired::{settle, wired};

type Leaf = BoxService<Connection, (), Error>;

async fn slowly(line: Bytes) -> Result<Bytes> {
    if line == "slow" {
        sleep(Duration::from_secs(1)).await;
    }
    Ok(line)
}

fn bye() -> Bytes {
    Bytes::from_static(b"bye")
}

/// What says `bye` at a drain, in all its forms.
fn leaves() -> Vec<(&'static str, Leaf)> {
    let drives = async |s: Session<Lines>| s.drive(service_fn(slowly)).on_drain(bye).await;
    let concurrently = async |s: Session<Lines>| {
        let driven = s.drive(service_fn(slowly)).concurrent(4).on_drain(bye);
        driven.on_error(|_: &Error| Bytes::from_static(b"error")).await
    };
    let error = |_: &Error| Bytes::from_static(b"error");
    vec![
        (
            "in order",
            BoxService::new(framed(Lines::lf(), service_fn(slowly)).on_drain(bye).on_error(error)),
        ),
        (
            "concurrent",
            BoxService::new(framed(Lines::lf(), service_fn(slowly)).concurrent(4).on_drain(bye)),
        ),
        (
            "unordered",
            BoxService::new(framed(Lines::lf(), service_fn(slowly)).on_drain(bye).unordered(4)),
        ),
        ("driven", BoxService::new(session(Lines::lf(), drives))),
        ("driven, concurrent", BoxService::new(session(Lines::lf(), concurrently))),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_goodbye_behind_the_answers() {
    for (name, leaf) in leaves() {
        let mut w = wired(leaf);
        w.say("one\nslow\n").await;
        w.expect("one\n").await;
        w.closing.drain();
        assert_eq!(w.rest().await, "slow\nbye\n", "{name}");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_said_goodbye_to_as_well() {
    for (name, leaf) in leaves() {
        let mut w = wired(leaf);
        settle().await;
        w.closing.drain();
        assert_eq!(w.rest().await, "bye\n", "{name}");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_closed_its_side_is_not_said_goodbye_to() {
    for (name, leaf) in leaves() {
        let mut w = wired(leaf);
        w.say("slow\n").await;
        w.peer.shutdown().await.unwrap();
        settle().await;
        w.closing.drain();
        assert_eq!(w.rest().await, "slow\n", "{name}");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_drain_there_is_no_goodbye() {
    for (name, leaf) in leaves() {
        let mut w = wired(leaf);
        w.say("one\n").await;
        assert_eq!(w.finish().await, "one\n", "{name}");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_closes_is_the_last_word_itself() {
    let quits =
        framed(Lines::lf(), reply_fn(|line: Bytes| Reply::one(line).then_close())).on_drain(bye);
    let mut w = wired(quits);
    w.say("quit\n").await;
    w.closing.drain();
    assert_eq!(w.rest().await, "quit\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_goodbye_comes_behind_the_pushes() {
    let (told, mut outboxes) = unbounded_channel();
    let leaf = per_connection(Lines::lf(), move |connection| {
        told.send(connection.outbox(200, SlowConsumer::Refuse)).unwrap();
        service_fn(slowly)
    });
    let mut w = wired(leaf.on_drain(bye));
    let outbox: Outbox<Bytes> = outboxes.recv().await.unwrap();
    settle().await;
    let pushed = "x".repeat(10_000);
    for _ in 0..100 {
        outbox.push(pushed.clone().into()).unwrap();
    }
    w.closing.drain();
    let rest = w.rest().await;
    assert!(rest == format!("{pushed}\n").repeat(100) + "bye\n", "{} bytes", rest.len());
    assert!(outbox.is_closed());
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_of_several_frames_is_whole_and_one_of_no_frame_says_nothing() {
    let several = || Reply::many(["so long".into(), "farewell".into()] as [Bytes; 2]);
    let mut w = wired(framed(Lines::lf(), service_fn(slowly)).on_drain(several));
    w.closing.drain();
    assert_eq!(w.rest().await, "so long\nfarewell\n");
    w.end().await.unwrap();
    let mut w = wired(framed(Lines::lf(), service_fn(slowly)).on_drain(Reply::<Bytes>::none));
    w.closing.drain();
    assert_eq!(w.rest().await, "");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_cannot_be_encoded_ends_the_connection_by_its_error() {
    let mut w = wired(
        framed(Lines::lf(), service_fn(slowly)).on_drain(|| Bytes::from_static(b"two\nlines")),
    );
    w.closing.drain();
    assert_eq!(w.rest().await, "");
    assert!(w.end().await.unwrap_err().downcast_ref::<CodecError>().is_some());
}

/// Panics where it is told to: as the call is made, at its first poll, or later.
fn falls(line: Bytes) -> impl Future<Output = Result<Bytes>> + Send {
    assert!(line != "now", "on purpose");
    async move {
        assert!(line != "soon", "on purpose");
        sleep(Duration::from_secs(1)).await;
        assert!(line != "later", "on purpose");
        Ok(line)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_call_is_an_answer_in_its_place_and_the_connection_goes_on() {
    let service =
        || ServiceBuilder::new().layer(CatchPanicLayer::new()).service(tower::service_fn(falls));
    let on_error = |error: &Error| {
        assert_eq!(
            error.downcast_ref::<CallPanicked>().unwrap().text().unwrap().split(": ").last(),
            Some("on purpose")
        );
        Bytes::from_static(b"500")
    };
    let leaves: [(&str, Leaf); 2] = [
        ("in order", BoxService::new(framed(Lines::lf(), service()).on_error(on_error))),
        (
            "concurrent",
            BoxService::new(framed(Lines::lf(), service()).concurrent(8).on_error(on_error)),
        ),
    ];
    for (name, leaf) in leaves {
        let mut w = wired(leaf);
        w.say("one\nnow\ntwo\nsoon\nthree\nlater\nfour\n").await;
        assert_eq!(w.finish().await, "one\n500\ntwo\n500\nthree\n500\nfour\n", "{name}");
        w.end().await.unwrap();
    }
    let mut w = wired(framed(Lines::lf(), service()).unordered(8).on_error(on_error));
    w.say("one\nnow\nsoon\nlater\n").await;
    let mut answers: Vec<_> = w.finish().await.lines().map(str::to_owned).collect();
    answers.sort();
    assert_eq!(answers, ["500", "500", "500", "one"]);
    w.end().await.unwrap();
}
