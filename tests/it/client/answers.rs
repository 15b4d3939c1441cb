//! Answers of many frames, pushes between them, and answers in any order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk::client::{Client, ClientError, Part, Tag};
use ropewalk::{Bytes, CloseReason, Lines, Reply, Session, framed, reply_fn, service_fn, session};
use tokio::time::{Instant, sleep};

use crate::called::{call, ends, serve, settle, soon};

#[tokio::test(start_paused = true)]
async fn the_frames_of_an_answer_are_gathered_and_pushes_come_between() {
    let (connector, _server) = serve(session(Lines::lf(), async |mut s: Session<Lines>| {
        s.feed(">first")?;
        while let Some(line) = s.next().await? {
            s.feed("250-one")?;
            s.feed(">between")?;
            s.feed([b"250 ", &line[..]].concat())?;
        }
        Ok(())
    }));
    let pushes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&pushes);
    let client = Client::new().connect(connector).answers(|line: &Bytes| match line.first() {
        Some(b'>') => Part::Push,
        _ if line.get(3) == Some(&b'-') => Part::More,
        _ => Part::Last,
    });
    let client = client.on_push(move |line: Bytes| kept.lock().unwrap().push(line));
    let (store, _handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let (a, b) = soon(async { tokio::join!(store.ask("a"), store.ask("b")) }).await;
    assert_eq!(a.unwrap(), ["250-one", "250 a"]);
    assert_eq!(b.unwrap(), ["250-one", "250 b"]);
    assert_eq!(*pushes.lock().unwrap(), [">first", ">between", ">between"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_one_frame_stays_one_frame_between_pushes() {
    let (connector, _server) = serve(framed(
        Lines::lf(),
        reply_fn(|line: Bytes| {
            Reply::many([Bytes::from_static(b">news"), line, Bytes::from_static(b">more")])
        }),
    ));
    let pushes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&pushes);
    let client = Client::new()
        .connect(connector)
        .pushes(|line: &Bytes| line.starts_with(b">"))
        .on_push(move |line: Bytes| kept.lock().unwrap().push(line));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let (a, b) = soon(async { tokio::join!(store.ask("a"), store.ask("b")) }).await;
    assert_eq!((a.unwrap(), b.unwrap()), ("a".into(), "b".into()));
    assert_eq!(pushes.lock().unwrap()[..3], [">news", ">more", ">news"]);
    let counts = format!("{:?}", handle.counts());
    assert!(counts.contains("closed: {}, calls: 2, answered: 2"), "{counts}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_its_bounds_replaces_the_connection_and_pushes_do_not_count() {
    let (connector, _server) = serve(framed(
        Lines::lf(),
        reply_fn(|line: Bytes| {
            let n = String::from_utf8_lossy(&line).parse().unwrap_or(0);
            Reply::many(
                vec![Bytes::from_static(b"more"); n].into_iter().chain([Bytes::from_static(b".")]),
            )
        }),
    ));
    let more = |line: &Bytes| if line == "." { Part::Last } else { Part::More };
    for max in [(8, 1_000_000), (1_000_000, 50)] {
        let client = Client::new().connect(&connector).answers(more).max_answer(max.0, max.1);
        let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
        for _ in 0..10 {
            assert_eq!(soon(store.ask("7")).await.unwrap().len(), 8);
        }
        let error = soon(store.ask("20")).await.unwrap_err();
        assert!(matches!(error, ClientError::MayHaveArrived(_)), "{error:?}");
        assert_eq!(soon(store.ask("7")).await.unwrap().len(), 8);
        assert_eq!(
            (handle.counts().connections(), handle.counts().closed(CloseReason::Replaced)),
            (2, 1)
        );
    }
    // Frames that are pushed between answers are not part of one.
    let (connector, mut ends) = ends(1024).await;
    let client = Client::new().connect(connector).max_push();
    let (store, _handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    for _ in 0..10 {
        end.say(&">push\n".repeat(20)).await;
        let asked = call(&store, "x").await;
        end.expect("x\n").await;
        end.say("X\n").await;
        assert_eq!(asked.await.unwrap(), ["X"]);
    }
}

/// Lines whose first byte is `>` are pushes, and an answer has 50 bytes at most.
trait MaxPush {
    type Out;
    fn max_push(self) -> Self::Out;
}

type PushOr = fn(&Bytes) -> Part;

impl<P, L, G, H> MaxPush for Client<P, L, G, H> {
    type Out = Client<P, L, ropewalk::client::Many<PushOr>, H>;

    fn max_push(self) -> Self::Out {
        let part: PushOr = |line| if line.starts_with(b">") { Part::Push } else { Part::Last };
        self.answers(part).max_answer(8, 50)
    }
}

/// The first word of a line is its number.
#[derive(Clone, Default)]
struct FirstWord(u8);

impl Tag<String, Bytes> for FirstWord {
    type Id = u8;

    fn assign(&mut self, req: &mut String, taken: &dyn Fn(&u8) -> bool) -> u8 {
        // Four of them, so that they come again soon.
        while taken(&self.0) {
            self.0 = (self.0 + 1) % 4;
        }
        let id = self.0;
        self.0 = (self.0 + 1) % 4;
        *req = format!("{id} {req}");
        id
    }

    fn finish(&mut self, line: &Bytes) -> Option<u8> {
        std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()
    }
}

#[tokio::test(start_paused = true)]
async fn tagged_answers_may_come_in_any_order() {
    let slow = service_fn(async |line: Bytes| {
        if line.ends_with(b"slow") {
            sleep(Duration::from_secs(3)).await;
        }
        Ok(line)
    });
    let (connector, _server) = serve(framed(Lines::lf(), slow).unordered(8));
    let client = Client::new().connect(connector).in_flight(3);
    let (store, handle) = client.tagged(Lines::lf(), FirstWord::default()).unwrap();
    let began = Instant::now();
    let (slow, fast) = (call(&store, "slow").await, call(&store, "fast").await);
    assert_eq!(soon(fast).await.unwrap(), "1 fast");
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(soon(slow).await.unwrap(), "0 slow");
    // Others overtake it, and no other call is given its number.
    let slow = call(&store, "slow").await;
    for i in 0..200 {
        let answer = soon(store.ask(i.to_string())).await.unwrap();
        assert!(answer.ends_with(format!(" {i}").as_bytes()), "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(6));
    assert!(soon(slow).await.unwrap().ends_with(b" slow"));
    assert_eq!(handle.counts().answered(), 203);
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_free_again_only_when_its_answer_has_come() {
    let (connector, mut ends) = ends(1024).await;
    let client = Client::new().connect(connector).in_flight(4);
    let (store, _handle) = client.tagged(Lines::lf(), FirstWord::default()).unwrap();
    let mut end = ends.accept().await;
    let gone = call(&store, "a").await;
    end.expect("0 a\n").await;
    drop(gone);
    for i in 0..6 {
        let asked = call(&store, "b").await;
        let id = 1 + i % 3;
        end.expect(&format!("{id} b\n")).await;
        end.say(&format!("{id} B\n")).await;
        assert_eq!(asked.await.unwrap(), format!("{id} B"));
    }
    end.say("0 A\n").await;
    settle().await;
    let _asked = call(&store, "c").await;
    end.expect("0 c\n").await;
}

/// One that knows no number but 0.
#[derive(Clone)]
struct Zero;

impl Tag<String, Bytes> for Zero {
    type Id = u8;

    fn assign(&mut self, _: &mut String, _: &dyn Fn(&u8) -> bool) -> u8 {
        0
    }

    fn finish(&mut self, _: &Bytes) -> Option<u8> {
        Some(0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_is_given_twice_fails_the_second_call_and_loses_no_answer() {
    let (connector, mut ends) = ends(1024).await;
    let (store, handle) = Client::new().connect(connector).tagged(Lines::lf(), Zero).unwrap();
    let mut end = ends.accept().await;
    let (first, second) = (call(&store, "a").await, call(&store, "b").await);
    end.expect("a\n").await;
    assert!(matches!(soon(second).await, Err(ClientError::Codec(_))));
    end.say("A\n").await;
    assert_eq!(soon(first).await.unwrap(), "A");
    assert_eq!(handle.in_flight(), 0);
}
