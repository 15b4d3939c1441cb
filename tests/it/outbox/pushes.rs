//! Frames pushed from outside: when they are written, in which order, and what becomes of them at
//! the end.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{
    CloseReason, Connection, Error, Lines, Opened, Outbox, RawBytes, Reply, Result, Session,
    SlowConsumer, per_connection, reply_fn, service_fn, session,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};
use tower::util::BoxService;

use crate::wired::{Wired, settle, wired, wired_with};

const LONG: Duration = Duration::from_secs(3600);

type Leaf = BoxService<Connection, (), Error>;
type Outboxes = UnboundedReceiver<Outbox<Bytes>>;

/// The same server in all its forms: it echoes, says `bye` when it is told to drain, and never
/// answers `wait`. It hands out the outbox of each connection.
fn leaves() -> Vec<(&'static str, Leaf, Outboxes)> {
    let (ordered, first) = unbounded_channel();
    let (concurrent, second) = unbounded_channel();
    let (unordered, third) = unbounded_channel();
    let (told, fourth) = unbounded_channel();
    let (driven, fifth) = unbounded_channel();
    vec![
        (
            "in order",
            BoxService::new(per_connection(Lines::lf(), move |c| echo(c, &ordered))),
            first,
        ),
        (
            "concurrent",
            BoxService::new(
                per_connection(Lines::lf(), move |c| echo(c, &concurrent)).concurrent(4),
            ),
            second,
        ),
        (
            "unordered",
            BoxService::new(per_connection(Lines::lf(), move |c| echo(c, &unordered)).unordered(4)),
            third,
        ),
        (
            "a session",
            BoxService::new(session(Lines::lf(), move |s| echoes(s, told.clone()))),
            fourth,
        ),
        (
            "a driven session",
            BoxService::new(session(Lines::lf(), move |s| drives(s, driven.clone()))),
            fifth,
        ),
    ]
}

type Answer = Pin<Box<dyn Future<Output = Result<Reply<Bytes>>> + Send>>;

fn echo(
    connection: &Opened<Lines>,
    outboxes: &UnboundedSender<Outbox<Bytes>>,
) -> impl tower::Service<Bytes, Response = Reply<Bytes>, Error = Error, Future = Answer> + use<> {
    outboxes.send(connection.outbox(256, SlowConsumer::Refuse)).unwrap();
    answers()
}

fn answers()
-> impl tower::Service<Bytes, Response = Reply<Bytes>, Error = Error, Future = Answer> + use<> {
    service_fn(|line: Bytes| -> Answer {
        Box::pin(async move {
            if line == "wait" {
                sleep(LONG).await;
            }
            Ok(Reply::one(line))
        })
    })
}

async fn drives(mut s: Session<Lines>, outboxes: UnboundedSender<Outbox<Bytes>>) -> Result {
    outboxes.send(s.outbox(256, SlowConsumer::Refuse)).unwrap();
    s.drive(answers()).await
}

async fn echoes(mut s: Session<Lines>, outboxes: UnboundedSender<Outbox<Bytes>>) -> Result {
    outboxes.send(s.outbox(256, SlowConsumer::Refuse)).unwrap();
    while let Some(line) = s.next().await? {
        if line == "wait" {
            s.during_idle(sleep(LONG)).await?;
        }
        s.feed(line)?;
    }
    Ok(())
}

/// A session of lines in the hands of the test: it hands out its outbox, and then does this.
fn with_outbox<Fut>(
    slow: SlowConsumer,
    then: impl Fn(Session<Lines>) -> Fut + Send + Sync + 'static,
) -> (Wired, Outboxes)
where
    Fut: Future<Output = Result> + Send + 'static,
{
    let (told, outboxes) = unbounded_channel();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        told.send(s.outbox(256, slow)).unwrap();
        then(s)
    });
    (wired(leaf), outboxes)
}

#[tokio::test(start_paused = true)]
async fn pushes_are_written_while_the_connection_waits() {
    for (name, leaf, mut outboxes) in leaves() {
        let mut w = wired(leaf);
        let outbox = outboxes.recv().await.unwrap();
        settle().await;
        for _ in 0..3 {
            outbox.push(Bytes::from_static(b"pushed")).unwrap();
            timeout(LONG, w.expect("pushed\n"))
                .await
                .unwrap_or_else(|_| panic!("{name}: not written"));
            w.say("asked\n").await;
            w.expect("asked\n").await;
        }
        assert_eq!(w.stats.frames_out(), 6, "{name}");
        w.end().await.unwrap();
        assert!(outbox.push(Bytes::new()).is_err(), "{name}: it has ended");
        assert!(outbox.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_wake_up_and_one_write() {
    for (name, leaf, mut outboxes) in leaves() {
        let mut w = wired(leaf);
        let outbox = outboxes.recv().await.unwrap();
        settle().await;
        let (polls, writes) =
            (w.calls.empty_reads.load(std::sync::atomic::Ordering::SeqCst), w.calls.writes());
        for n in 0..10 {
            outbox.push(n.to_string().into()).unwrap();
        }
        w.expect("0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").await;
        settle().await;
        assert_eq!(w.calls.writes() - writes, 1, "{name}");
        let polled = w.calls.empty_reads.load(std::sync::atomic::Ordering::SeqCst) - polls;
        assert_eq!(polled, 1, "{name}: so often it was woken");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pushes_are_written_while_a_call_is_pending_or_the_session_waits_idly() {
    for (name, leaf, mut outboxes) in leaves() {
        let mut w = wired(leaf);
        let outbox = outboxes.recv().await.unwrap();
        w.say("hello\nwait\n").await;
        w.expect("hello\n").await;
        settle().await;
        for _ in 0..3 {
            outbox.push(Bytes::from_static(b"pushed")).unwrap();
            timeout(LONG / 2, w.expect("pushed\n"))
                .await
                .unwrap_or_else(|_| panic!("{name}: not written"));
        }
        w.expect("wait\n").await;
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pushes_wait_while_a_session_may_be_in_the_middle_of_an_answer() {
    let (mut w, mut outboxes) = with_outbox(SlowConsumer::Refuse, async |mut s: Session<Lines>| {
        s.feed("begin")?;
        s.during(sleep(LONG)).await?;
        s.send("end").await?;
        s.next().await.map(drop)
    });
    let outbox = outboxes.recv().await.unwrap();
    w.expect("begin\n").await;
    outbox.push(Bytes::from_static(b"pushed")).unwrap();
    w.expect("end\npushed\n").await;
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pushes_do_not_split_a_long_answer() {
    let (told, mut outboxes) = unbounded_channel();
    let line = Bytes::from(vec![b'x'; 1023]);
    let answers = line.clone();
    let leaf = per_connection(Lines::lf(), move |connection| {
        told.send(connection.outbox(256, SlowConsumer::Refuse)).unwrap();
        service_fn(move |_: Bytes| {
            let answer = Reply::many(vec![answers.clone(); 1000]);
            async move { Ok(answer) }
        })
    });
    let mut w = wired_with(leaf, 1024);
    let outbox: Outbox<Bytes> = outboxes.recv().await.unwrap();
    w.say("go\n").await;
    settle().await;
    outbox.push(Bytes::from_static(b"pushed")).unwrap();
    for n in 0..1000 {
        let mut got = [0; 1024];
        tokio::io::AsyncReadExt::read_exact(&mut w.peer, &mut got).await.unwrap();
        assert_eq!(got[..1023], line, "line {n}");
    }
    w.expect("pushed\n").await;
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_the_codec_refuses_is_dropped_and_counted_and_ends_nothing() {
    for (name, leaf, mut outboxes) in leaves() {
        let mut w = wired(leaf);
        let outbox = outboxes.recv().await.unwrap();
        for line in ["one", "two\nlines", "three", "four\nfive"] {
            outbox.push(line.into()).unwrap();
        }
        w.expect("one\nthree\n").await;
        assert_eq!((outbox.refused(), outbox.dropped()), (2, 0), "{name}");
        w.say("asked\n").await;
        w.expect("asked\n").await;
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn on_drain_all_that_was_pushed_is_written_and_nothing_more_is_taken() {
    for (name, leaf, mut outboxes) in leaves() {
        let mut w = wired(leaf);
        let outbox = outboxes.recv().await.unwrap();
        settle().await;
        let pushed: Vec<String> = (0..100).map(|n| n.to_string().repeat(7000)).collect();
        w.say("asked\n").await;
        w.expect("asked\n").await;
        for line in &pushed {
            outbox.push(line.clone().into()).unwrap();
        }
        w.closing.drain();
        let all = w.rest().await;
        assert!(all == format!("{}\n", pushed.join("\n")), "{name}: {} bytes", all.len());
        assert!(outbox.push(Bytes::new()).is_err(), "{name}");
        w.end().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_drains_writes_its_goodbye_behind_the_pushes_and_takes_none_later() {
    let (mut w, mut outboxes) = with_outbox(SlowConsumer::Refuse, async |mut s: Session<Lines>| {
        while s.next().await?.is_some() {}
        s.during(sleep(LONG)).await?;
        s.feed("bye")
    });
    let outbox = outboxes.recv().await.unwrap();
    settle().await;
    outbox.push("pushed".into()).unwrap();
    w.closing.drain();
    outbox.push("this too".into()).unwrap();
    w.expect("pushed\nthis too\n").await;
    settle().await;
    assert!(outbox.push("too late".into()).is_err());
    assert_eq!(w.rest().await, "bye\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_any_more_when_the_goodbye_of_a_service_is_made() {
    let made = Arc::new(OnceLock::<Outbox<Bytes>>::new());
    let pushes = Arc::clone(&made);
    let leaf = per_connection(Lines::lf(), move |connection| {
        assert!(made.set(connection.outbox(4, SlowConsumer::Refuse)).is_ok());
        reply_fn(|line: Bytes| line)
    })
    .on_drain(move || {
        let late = pushes.get().unwrap().push("late".into());
        Bytes::from(format!("bye, {}", late.unwrap_err()))
    });
    let mut w = wired(leaf);
    settle().await;
    w.closing.drain();
    assert_eq!(w.rest().await, "bye, the connection accepts no more frames\n");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pushes_are_dropped_by_an_abort_and_by_a_session_that_does_not_wait_for_the_end() {
    for aborts in [true, false] {
        let (mut w, mut outboxes) =
            with_outbox(SlowConsumer::Refuse, async |mut s: Session<Lines>| {
                s.during(sleep(LONG)).await?;
                Ok(())
            });
        let outbox = outboxes.recv().await.unwrap();
        outbox.push("pushed".into()).unwrap();
        if aborts {
            settle().await;
            w.closing.abort();
        }
        assert_eq!(w.rest().await, "");
        assert!(outbox.is_closed() && outbox.is_empty());
        assert_eq!(outbox.push("late".into()).unwrap_err().into_inner(), "late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_switch_of_the_codec_closes_the_outboxes() {
    let (told, mut outboxes) = unbounded_channel();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let told = told.clone();
        async move {
            let old: Outbox<Bytes> = s.outbox(4, SlowConsumer::Refuse);
            old.push("lost".into()).unwrap();
            let mut s = s.switch(RawBytes)?;
            told.send((old, s.outbox(4, SlowConsumer::Refuse))).unwrap();
            s.next().await.map(drop)
        }
    });
    let mut w = wired(leaf);
    let (old, new): (Outbox<Bytes>, Outbox<Bytes>) = outboxes.recv().await.unwrap();
    assert!(old.is_closed() && old.push("late".into()).is_err());
    new.push("raw".into()).unwrap();
    w.expect("raw").await;
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_has_outboxes_of_several_types_and_one_of_bytes_around_the_codec() {
    let (told, mut outboxes) = unbounded_channel();
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let told = told.clone();
        async move {
            let text: Outbox<String> = s.outbox(4, SlowConsumer::Refuse);
            let statics: Outbox<&'static str> = s.outbox(4, SlowConsumer::Refuse);
            told.send((text, statics, s.outbox_raw(4, SlowConsumer::Refuse))).unwrap();
            while s.next().await?.is_some() {}
            Ok(())
        }
    });
    let mut w = wired(leaf);
    let (text, statics, raw) = outboxes.recv().await.unwrap();
    for _ in 0..3 {
        text.push("text".to_owned()).unwrap();
        w.expect("text\n").await;
        statics.push("static").unwrap();
        w.expect("static\n").await;
        raw.push("raw\nbytes".into()).unwrap();
        w.expect("raw\nbytes").await;
    }
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn being_pushed_to_is_no_sign_of_life_of_the_peer() {
    let (mut w, mut outboxes) = with_outbox(SlowConsumer::Refuse, async |mut s: Session<Lines>| {
        s.set_read_deadlines(
            ropewalk::connection::ReadDeadlines::OFF.idle(Duration::from_secs(10)),
        );
        while s.next().await?.is_some() {}
        Ok(())
    });
    let outbox = outboxes.recv().await.unwrap();
    w.say("hello\n").await;
    let ends = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            if outbox.push("x".into()).is_err() {
                break;
            }
        }
    };
    timeout(Duration::from_secs(12), ends).await.unwrap();
    assert_eq!(w.closing.reason(), Some(CloseReason::IdleTimeout));
    assert!(w.end().await.unwrap_err().is_read_timeout());
}
