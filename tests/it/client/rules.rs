//! The rules of a client, one after the other: what a disconnect, a dropped call, a deadline and a
//! broken order do.

use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, poll};
use ropewalk::client::{Client, ClientError, ClientState};
use ropewalk::{Bytes, CloseReason, Lines};
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

use crate::called::{LONG, call, ends, nobody, settle, soon};

fn is_not_sent(result: &Result<Bytes, ClientError>) -> bool {
    matches!(result, Err(ClientError::NotSent(_)))
}

fn may_have_arrived(result: &Result<Bytes, ClientError>) -> bool {
    matches!(result, Err(ClientError::MayHaveArrived(_)))
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_call_of_which_no_byte_was_handed_over_is_not_sent_and_any_other_may_have_arrived()
{
    let (connector, mut ends) = ends(10).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    // 7 bytes each, of which 10 are taken: all of one, some of the next, none of the third.
    let [a, b, c] =
        [call(&store, "aaaaaa").await, call(&store, "bbbbbb").await, call(&store, "cccccc").await];
    settle().await;
    end.expect("a").await;
    drop(end);
    let (a, b, c) = soon(async { tokio::join!(a, b, c) }).await;
    assert!(may_have_arrived(&a), "{a:?}");
    assert!(may_have_arrived(&b), "{b:?}");
    assert!(is_not_sent(&c), "{c:?}");
    assert_eq!((handle.in_flight(), handle.counts().failed()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn rule_1_calls_that_are_queued_stay_queued_for_the_next_connection_and_nothing_is_sent_twice()
 {
    let (connector, mut ends) = ends(1024).await;
    let (store, _handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let sent = call(&store, "sent").await;
    end.expect("sent\n").await;
    let mut late = store.clone();
    late.ready().await.unwrap();
    drop(end);
    assert!(may_have_arrived(&soon(sent).await));
    // It was ready before, and there is no connection now.
    let queued = late.call("queued".to_owned());
    let mut end = ends.accept().await;
    end.expect("queued\n").await;
    end.say("Q\n").await;
    assert_eq!(soon(queued).await.unwrap(), "Q");
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_call_that_is_dropped_before_it_is_encoded_is_not_sent_and_gives_its_place_back() {
    let (connector, mut ends) = ends(1024).await;
    let (store, _handle) =
        Client::new().connect(connector).in_flight(2).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let (a, b) = (call(&store, "a").await, call(&store, "b").await);
    drop(a);
    end.expect("b\n").await;
    // The place of `a` is free.
    let c = call(&store, "c").await;
    end.expect("c\n").await;
    drop((b, c));
}

#[tokio::test(start_paused = true)]
async fn rule_2_the_answer_of_a_dropped_call_is_thrown_away_and_its_place_is_taken_until_then() {
    let (connector, mut ends) = ends(1024).await;
    let (store, handle) =
        Client::new().connect(connector).in_flight(2).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let (a, b) = (call(&store, "a").await, call(&store, "b").await);
    end.expect("a\nb\n").await;
    drop(a);
    let mut next = store.clone();
    assert!(timeout(Duration::from_secs(1), next.ready()).await.is_err());
    end.say("A\nB\n").await;
    assert_eq!(soon(b).await.unwrap(), "B");
    let c = soon(next.ready()).await.unwrap().call("c".to_owned());
    end.expect("c\n").await;
    end.say("C\n").await;
    assert_eq!(soon(c).await.unwrap(), "C");
    assert_eq!((handle.counts().dropped(), handle.counts().answered()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn rule_3_the_deadline_covers_the_wait_for_a_connection_the_queue_and_the_answer() {
    let two = Duration::from_secs(2);
    let client = Client::new().connect(nobody()).call_within(two);
    let (store, _handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let began = Instant::now();
    let late = join_all((0..10).map(|_| store.ask("x"))).await;
    assert!(
        late.iter().all(|late| matches!(late, Err(ClientError::TimedOut { sent: false }))),
        "{late:?}"
    );
    assert_eq!(began.elapsed(), two);

    let (connector, mut ends) = ends(1024).await;
    let client = Client::new().connect(connector).call_within(two).in_flight(2);
    let (store, _handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let (first, second) = (call(&store, "a").await, call(&store, "b").await);
    let began = Instant::now();
    end.expect("a\nb\n").await;
    sleep(Duration::from_secs(1)).await;
    // It waits for a place, gets it after half a second, and has that much less for its answer.
    let third = store.ask("c");
    tokio::pin!(third);
    assert!(poll!(&mut third).is_pending());
    sleep(Duration::from_millis(500)).await;
    end.say("A\n").await;
    assert_eq!(soon(first).await.unwrap(), "A");
    let (second, third) = soon(async {
        tokio::join!(second.map(|r| (r, began.elapsed())), third.map(|r| (r, began.elapsed())))
    })
    .await;
    assert!(
        matches!(second, (Err(ClientError::TimedOut { sent: true }), t) if t == two),
        "{second:?}"
    );
    assert!(matches!(third.0, Err(ClientError::TimedOut { sent: true })), "{third:?}");
    assert_eq!(third.1, Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn rule_3_queued_calls_that_came_later_are_late_later() {
    let (connector, mut ends) = ends(16).await;
    let client = Client::new().connect(connector).call_within(Duration::from_secs(10));
    let (store, _handle) = client.pipelined::<String, _>(Lines::lf().max(1_000_000)).unwrap();
    let _end = ends.accept().await;
    // More than there is room for: the others stay in the queue, as this server takes nothing.
    let large = "x".repeat(70_000);
    let began = Instant::now();
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(call(&store, &large).await);
        sleep(Duration::from_secs(1)).await;
    }
    for (i, call) in calls.into_iter().enumerate() {
        let sent = i == 0;
        assert!(matches!(soon(call).await, Err(ClientError::TimedOut { sent: s }) if s == sent));
        assert_eq!(began.elapsed(), Duration::from_secs(10 + i as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn rule_3_a_caller_that_waited_too_long_is_ready_without_a_place_and_the_call_fails() {
    let client = Client::new().connect(nobody()).call_within(Duration::from_secs(2));
    let (mut store, _handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let began = Instant::now();
    store.ready().await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(store.in_flight(), usize::MAX);
    let error = store.call("x".to_owned()).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { sent: false }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn rule_3_a_refused_caller_takes_a_place_that_is_free_by_then() {
    let (connector, mut ends) = ends(1024).await;
    let client = Client::new().connect(connector).call_within(Duration::from_secs(2)).in_flight(2);
    let (store, _handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let mut idle = store.clone();
    idle.ready().await.unwrap();
    let first = call(&store, "a").await;
    end.expect("a\n").await;
    let mut second = store.clone();
    second.ready().await.unwrap();
    assert!(matches!(first.await, Err(ClientError::TimedOut { sent: true })));
    end.say("A\n").await;
    settle().await;
    let second = second.ready().await.unwrap().call("b".to_owned());
    end.expect("b\n").await;
    end.say("B\n").await;
    assert_eq!(soon(second).await.unwrap(), "B");
}

#[tokio::test(start_paused = true)]
async fn rule_3_a_server_that_answers_nothing_is_replaced_and_one_that_is_slow_is_not() {
    let (connector, mut ends) = ends(1024).await;
    let client = Client::new().connect(connector).call_within(Duration::from_secs(2));
    let client = client.stalled_after(Duration::from_secs(5));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let began = Instant::now();
    assert!(matches!(soon(store.ask("a")).await, Err(ClientError::TimedOut { sent: true })));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    end.expect("a\n").await;
    // The next ones are out as well, and one answer every two seconds is progress.
    for i in 0..5 {
        sleep(Duration::from_secs(2)).await;
        let _asked = call(&store, &i.to_string()).await;
        settle().await;
        end.say("late\n").await;
    }
    assert_eq!(handle.counts().connections(), 1);
    let mut next = ends.accept().await;
    assert_eq!(handle.counts().closed(CloseReason::Replaced), 1);
    let asked = call(&store, "b").await;
    next.expect("b\n").await;
    next.say("B\n").await;
    assert_eq!(soon(asked).await.unwrap(), "B");
}

#[tokio::test(start_paused = true)]
async fn rule_3_a_connection_whose_every_place_is_held_by_a_late_call_is_replaced_at_once() {
    let (connector, mut ends) = ends(1024).await;
    let client = Client::new()
        .connect(connector)
        .call_within(Duration::from_secs(2))
        .in_flight(2)
        .stalled_after(LONG);
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let _end = ends.accept().await;
    let began = Instant::now();
    for late in join_all((0..2).map(|_| store.ask("x"))).await {
        assert!(matches!(late, Err(ClientError::TimedOut { sent: true })));
    }
    let _next = ends.accept().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(handle.counts().closed(CloseReason::Replaced), 1);
}

#[tokio::test(start_paused = true)]
async fn rule_4_an_unrequested_answer_ends_the_connection_and_no_answer_behind_it_is_handed_out() {
    let (connector, mut ends) = ends(1024).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let (a, b) = (call(&store, "a").await, call(&store, "b").await);
    end.expect("a\nb\n").await;
    // In one read: A and B are in order, and C answers nothing.
    end.say("A\nB\nC\n").await;
    assert_eq!((soon(a).await.unwrap(), soon(b).await.unwrap()), ("A".into(), "B".into()));
    let mut end = ends.accept().await;
    assert_eq!(handle.counts().closed(CloseReason::Desynchronized), 1);
    let d = call(&store, "d").await;
    end.expect("d\n").await;
    end.say("D\n").await;
    assert_eq!(soon(d).await.unwrap(), "D");
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_server_that_greets_is_out_of_step_and_the_error_names_the_fix() {
    let (connector, mut ends) = ends(1024).await;
    let (_store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    end.say("220 ready\n").await;
    settle().await;
    let ClientState::Waiting { error, .. } = handle.state() else { panic!("{:?}", handle.state()) };
    assert!(error.to_string().contains("in `prepare`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn rule_4_an_answer_that_the_codec_refuses_ends_the_connection_with_its_error() {
    let (connector, mut ends) = ends(1024).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf().max(5)).unwrap();
    let mut end = ends.accept().await;
    let (a, b) = (call(&store, "a").await, call(&store, "b").await);
    end.expect("a\nb\n").await;
    end.say("A\n0123456789\n").await;
    assert_eq!(soon(a).await.unwrap(), "A");
    assert!(may_have_arrived(&soon(b).await));
    let _next = ends.accept().await;
    assert_eq!(handle.counts().closed(CloseReason::CodecError), 1);
}
