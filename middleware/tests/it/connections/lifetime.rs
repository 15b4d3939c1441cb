//! Connections that end at an age.

use std::future::poll_fn;
use std::time::Duration;

use ropewalk_middleware::{CloseReason, Closing, Connection, LifetimeLayer};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, service_fn};

use crate::common::{Hold, connection, settle};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Ends when the connection is drained.
async fn until_drained(connection: Connection) -> Result<(), std::io::Error> {
    let closing = connection.closing();
    poll_fn(|cx| closing.poll_draining(cx)).await;
    Ok(())
}

type Served = (Closing, DuplexStream, JoinHandle<Result<(), std::io::Error>>);

/// A connection that stays, and takes no notice of a drain.
async fn hold(layer: &LifetimeLayer) -> Served {
    let (ours, theirs) = connection();
    let closing = ours.closing();
    let task = tokio::spawn(layer.layer(Hold::default()).call(ours));
    settle().await;
    (closing, theirs, task)
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_drained_at_its_age_and_not_before() {
    let layer = LifetimeLayer::new(60 * SECOND);
    let (ours, _theirs) = connection();
    let closing = ours.closing();
    let task = tokio::spawn(layer.layer(service_fn(until_drained)).call(ours));
    settle().await;
    advance(60 * SECOND - MS).await;
    settle().await;
    assert_eq!((closing.is_draining(), closing.reason()), (false, None));
    advance(MS).await;
    task.await.unwrap().unwrap();
    assert_eq!((closing.is_draining(), closing.is_aborted()), (true, false));
    assert_eq!(closing.reason(), Some(CloseReason::MaxAge));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_is_aborted_after_the_grace() {
    let layer = LifetimeLayer::new(10 * SECOND).grace(5 * SECOND);
    let (closing, _theirs, _task) = hold(&layer).await;
    advance(15 * SECOND - MS).await;
    settle().await;
    assert_eq!((closing.is_draining(), closing.is_aborted()), (true, false));
    advance(MS).await;
    settle().await;
    assert_eq!((closing.is_aborted(), closing.reason()), (true, Some(CloseReason::MaxAge)));
}

#[tokio::test(start_paused = true)]
async fn by_default_a_connection_has_30_s_to_end() {
    let (closing, _theirs, _task) = hold(&LifetimeLayer::new(10 * SECOND)).await;
    advance(40 * SECOND - MS).await;
    settle().await;
    assert_eq!((closing.is_draining(), closing.is_aborted()), (true, false));
    advance(MS).await;
    settle().await;
    assert!(closing.is_aborted());
}

#[tokio::test(start_paused = true)]
async fn each_connection_has_its_own_age_and_one_that_ended_is_forgotten() {
    let layer = LifetimeLayer::new(10 * SECOND);
    let (first, theirs, task) = hold(&layer).await;
    advance(4 * SECOND).await;
    let (second, _theirs, _task) = hold(&layer).await;
    drop(theirs);
    task.await.unwrap().unwrap();
    advance(6 * SECOND).await;
    settle().await;
    assert_eq!((first.is_draining(), second.is_draining()), (false, false));
    advance(4 * SECOND).await;
    settle().await;
    assert_eq!((first.is_draining(), second.is_draining()), (false, true));
}

#[tokio::test(start_paused = true)]
async fn the_ages_of_a_crowd_are_spread_over_the_jitter() {
    let layer = LifetimeLayer::new(100 * SECOND).jitter(50 * SECOND);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let (ours, theirs) = connection();
        let closing = ours.closing();
        crowd.push((
            closing,
            theirs,
            tokio::spawn(layer.layer(service_fn(until_drained)).call(ours)),
        ));
    }
    let begin = Instant::now();
    let drained =
        |crowd: &[Served]| crowd.iter().filter(|(closing, ..)| closing.is_draining()).count();
    for (seconds, fewest, most) in [(99, 0, 0), (125, 60, 140), (150, 200, 200)] {
        advance(begin + seconds * SECOND - Instant::now()).await;
        settle().await;
        let drained = drained(&crowd);
        assert!((fewest..=most).contains(&drained), "{drained} after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_due_before_an_earlier_one_is_not_late() {
    // With jitter the ages do not come in order: of 200 connections about 20 are due within a tenth
    // of the time.
    let layer = LifetimeLayer::new(SECOND).jitter(1000 * SECOND);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(hold(&layer).await);
    }
    advance(101 * SECOND).await;
    settle().await;
    let drained = crowd.iter().filter(|(closing, ..)| closing.is_draining()).count();
    assert!((2..=60).contains(&drained), "{drained}");
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_connection_and_begins_again() {
    let layer = LifetimeLayer::new(3600 * SECOND);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..3 {
        let (_closing, theirs, task) = hold(&layer).await;
        assert_eq!(tasks(), before + 2);
        drop(theirs);
        task.await.unwrap().unwrap();
        settle().await;
        assert_eq!(tasks(), before);
    }
}

#[test]
fn a_runtime_that_goes_takes_no_ages_with_it() {
    let layer = LifetimeLayer::new(10 * SECOND);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    runtime().block_on(hold(&layer));
    runtime().block_on(async {
        let (closing, _theirs, _task) = hold(&layer).await;
        advance(10 * SECOND).await;
        settle().await;
        assert!(closing.is_draining());
    });
}

#[test]
fn a_runtime_that_goes_leaves_the_ages_to_another_one() {
    let layer = LifetimeLayer::new(10 * SECOND);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (one, other) = (runtime(), runtime());
    let _first = one.block_on(hold(&layer));
    let (closing, _theirs, _task) = other.block_on(hold(&layer));
    drop(one);
    other.block_on(async {
        advance(11 * SECOND).await;
        settle().await;
        assert!(closing.is_draining());
    });
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_has_ended_has_no_age_although_its_future_is_kept() {
    let layer = LifetimeLayer::new(10 * SECOND);
    let (ours, _theirs) = connection();
    let closing = ours.closing();
    let mut ends = layer.layer(service_fn(async |_: Connection| Ok::<_, std::io::Error>(())));
    let mut call = Box::pin(ends.call(ours));
    call.as_mut().await.unwrap();
    settle().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    advance(60 * SECOND).await;
    settle().await;
    assert_eq!((closing.is_draining(), closing.reason()), (false, None));
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn an_age_beyond_the_clock_is_for_ever() {
    let layer = LifetimeLayer::new(Duration::MAX).jitter(Duration::MAX);
    let (closing, _theirs, _task) = hold(&layer).await;
    advance(1_000_000 * SECOND).await;
    settle().await;
    assert!(!closing.is_draining());
}

#[tokio::test(start_paused = true)]
async fn a_number_of_calls_is_kept_on_the_connection_and_only_lowered() {
    let layer = LifetimeLayer::new(Duration::MAX).max_calls(2).jitter(SECOND).grace(SECOND);
    let (closing, _theirs, _task) = hold(&layer).await;
    let stats = closing.info().stats();
    stats.add_frames_in(1);
    assert!(!stats.is_at_frame_limit());
    stats.add_frames_in(1);
    assert!(stats.is_at_frame_limit());
    closing.limit_frames(3);
    assert!(stats.is_at_frame_limit(), "a higher limit changes nothing");
    assert!(!hold(&LifetimeLayer::new(SECOND)).await.0.info().stats().is_at_frame_limit());
    advance(1_000_000 * SECOND).await;
    settle().await;
    assert!(!closing.is_draining(), "there is no maximum age");
}
