//! Rates of the frames of answers.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use ropewalk_middleware::key_rate::KeyRates;
use ropewalk_middleware::{
    AnswerRateLayer, Body, CallLimitLayer, Error, IntoReply, KeyRateLayer, Reply, Result,
};
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A service that answers with so many frames as the frame has bytes.
fn counted()
-> impl Service<Bytes, Response = Reply<usize>, Error = Infallible, Future: Send> + Clone {
    service_fn(async |frame: Bytes| Ok(Reply::many(0..frame.len())))
}

/// Sends a frame, and takes the frames of the answer as they come.
async fn answer<S, A>(service: &mut S, frame: &'static str) -> Vec<usize>
where
    S: Service<Bytes, Response = A, Error = Infallible>,
    A: IntoReply<Frame = usize>,
{
    let reply = service.ready().await.unwrap().call(Bytes::from(frame)).await.unwrap();
    match reply.into_reply().body {
        Body::None => Vec::new(),
        Body::One(frame) => vec![frame],
        Body::Many(frames) => frames.collect(),
        Body::Stream(frames) => frames.map(Result::unwrap).collect().await,
    }
}

/// The clock of the runtime goes in milliseconds.
#[track_caller]
fn assert_about(start: Instant, expected: Duration) {
    let elapsed = start.elapsed();
    assert!(elapsed >= expected && elapsed <= expected + 2 * MS, "{elapsed:?}");
}

fn ten() -> AnswerRateLayer {
    KeyRateLayer::new(10, SECOND).answers()
}

#[tokio::test(start_paused = true)]
async fn each_frame_of_an_answer_takes_a_token_and_an_empty_answer_takes_no_token() {
    let mut service = ten().layer(counted());
    let start = Instant::now();
    for _ in 0..100 {
        assert!(answer(&mut service, "").await.is_empty());
    }
    assert_eq!(answer(&mut service, "four").await, [0, 1, 2, 3]);
    assert_eq!(answer(&mut service, "sixsix").await.len(), 6);
    assert_about(start, Duration::ZERO);
    assert_eq!(answer(&mut service, "1").await, [0]);
    assert_about(start, SECOND / 10);
    assert_eq!(answer(&mut service, "a long answer, of 30 frames in").await.len(), 30);
    assert_about(start, SECOND / 10 + 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_clones_share_one_rate_and_another_layer_does_not() {
    let layer = KeyRateLayer::new(100, SECOND).burst(1).answers();
    let start = Instant::now();
    let one = |_| {
        let mut service =
            layer.clone().layer(service_fn(async |_: Bytes| Ok::<_, Infallible>(Reply::one(1))));
        tokio::spawn(async move { answer(&mut service, "x").await })
    };
    for task in (0..1000).map(one).collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), [1]);
    }
    assert_about(start, 999 * SECOND / 100);
    let start = Instant::now();
    answer(&mut ten().layer(counted()), "other").await;
    assert_about(start, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_rate_which_its_frames_share_if_they_are_limited_too() {
    let rates = KeyRates::new(2, SECOND);
    let (mut ann, mut bob) =
        (rates.of("ann").answers().layer(counted()), rates.of("bob").answers().layer(counted()));
    let start = Instant::now();
    answer(&mut ann, "xx").await;
    answer(&mut bob, "xx").await;
    assert_about(start, Duration::ZERO);
    let mut frames = rates.of("ann").layer(counted());
    assert!(timeout(SECOND / 2 - MS, frames.ready()).await.is_err());
    assert!(timeout(2 * MS, frames.ready()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_its_frames_and_then_for_their_tokens_and_its_error_takes_no_token() {
    let layer = KeyRateLayer::new(1, SECOND).answers();
    let items = || futures::stream::iter([Ok(1), Ok(2), Err(Error::other("as told"))]);
    let mut service = layer.layer(service_fn(move |_: Bytes| async move {
        Ok::<_, Infallible>(Reply::stream(items()).then_close())
    }));
    let reply = service.ready().await.unwrap().call(Bytes::new()).await.unwrap();
    assert!(reply.closes(), "it is the same answer");
    let Body::Stream(mut frames) = reply.body else { panic!("a stream") };
    let start = Instant::now();
    assert_eq!(frames.next().await.unwrap().unwrap(), 1);
    assert_about(start, Duration::ZERO);
    assert_eq!(frames.next().await.unwrap().unwrap(), 2);
    assert_about(start, SECOND);
    assert!(frames.next().await.unwrap().is_err());
    assert!(frames.next().await.is_none());
    assert_about(start, SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_dropped_while_it_waits_returns_its_token() {
    let layer = KeyRateLayer::new(1, SECOND).answers();
    let mut service = layer.layer(counted());
    answer(&mut service, "x").await;
    for _ in 0..1000 {
        assert!(timeout(Duration::ZERO, answer(&mut service, "x")).await.is_err());
        assert!(timeout(Duration::ZERO, answer(&mut service, "xxx")).await.is_err());
    }
    // One that was never polled has taken no token.
    drop(service.ready().await.unwrap().call(Bytes::from("x")));
    let start = Instant::now();
    answer(&mut service, "x").await;
    assert!(start.elapsed() <= SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_is_over_when_its_answer_begins_to_wait_and_its_error_does_not_wait() {
    let limit = CallLimitLayer::new(1);
    let layer = KeyRateLayer::new(1, SECOND).answers();
    let leaf = service_fn(
        async |frame: Bytes| {
            if frame.is_empty() { Err("as told") } else { Ok(Reply::one(frame)) }
        },
    );
    let mut service = layer.layer(limit.layer(leaf));
    drop(service.ready().await.unwrap().call(Bytes::from("first")).await.unwrap());
    let late = tokio::spawn(service.ready().await.unwrap().call(Bytes::from("late")));
    tokio::task::yield_now().await;
    assert_eq!((late.is_finished(), limit.active()), (false, 0));
    let start = Instant::now();
    assert!(service.ready().await.unwrap().call(Bytes::new()).await.is_err());
    assert_about(start, Duration::ZERO);
    drop(late.await.unwrap().unwrap());
    assert_about(start, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_once_in_an_age_lets_the_first_answer_through() {
    let mut service = KeyRateLayer::new(1, Duration::MAX).answers().layer(counted());
    answer(&mut service, "x").await;
    assert!(timeout(1_000_000 * SECOND, answer(&mut service, "x")).await.is_err());
}
