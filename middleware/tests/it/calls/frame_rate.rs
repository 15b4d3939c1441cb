//! A rate for each connection's frames, or bytes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::FrameRateLayer;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn leaf() -> impl Service<Bytes, Response = (), Error = Infallible, Future: Send> + Clone {
    service_fn(async |_: Bytes| Ok(()))
}

async fn send<S>(service: &mut S, frames: usize, size: usize)
where
    S: Service<Bytes, Response = (), Error = Infallible>,
{
    for _ in 0..frames {
        service.ready().await.unwrap().call(vec![0; size].into()).await.unwrap();
    }
}

/// The clock of the runtime goes in milliseconds.
fn is_about(elapsed: Duration, expected: Duration) -> bool {
    elapsed >= expected && elapsed <= expected + Duration::from_millis(2)
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_through_and_the_rest_at_the_rate() {
    let mut service = FrameRateLayer::new(10, SECOND).layer(leaf());
    let start = Instant::now();
    send(&mut service, 10, 1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    send(&mut service, 1, 1).await;
    assert!(is_about(start.elapsed(), SECOND / 10), "{:?}", start.elapsed());
    send(&mut service, 99, 1).await;
    assert!(is_about(start.elapsed(), 10 * SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_bucket_can_be_larger_or_smaller_than_the_rate() {
    let mut service = FrameRateLayer::new(10, SECOND).burst(30).layer(leaf());
    let start = Instant::now();
    send(&mut service, 30, 1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let mut service = FrameRateLayer::new(10, SECOND).burst(1).layer(leaf());
    send(&mut service, 11, 1).await;
    assert!(is_about(start.elapsed(), SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_instant_sees_more_than_two_bursts() {
    let mut service = FrameRateLayer::new(10, SECOND).layer(leaf());
    send(&mut service, 1, 1).await;
    sleep(1000 * SECOND).await;
    let start = Instant::now();
    // Nine are left, and when they are gone a long time has passed.
    send(&mut service, 19, 1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    send(&mut service, 1, 1).await;
    assert!(is_about(start.elapsed(), SECOND / 10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn over_time_the_rate_is_exact_however_the_frames_come() {
    let mut service = FrameRateLayer::new(7, SECOND).burst(3).layer(leaf());
    send(&mut service, 3, 1).await;
    let start = Instant::now();
    for n in 0..100 {
        send(&mut service, n % 13, 1).await;
        sleep(Duration::from_millis(n as u64)).await;
    }
    let start_of_rush = Instant::now();
    send(&mut service, 700, 1).await;
    assert!(
        start_of_rush.elapsed() <= 100 * SECOND + Duration::from_millis(2),
        "{:?}",
        start_of_rush.elapsed()
    );
    let sent: u32 = 700 + (0..100).map(|n| n % 13).sum::<u32>();
    assert!(
        start.elapsed() + Duration::from_millis(2) >= SECOND * (sent - 3) / 7,
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_as_they_come_and_a_large_frame_is_paid_afterwards() {
    let mut service = FrameRateLayer::bytes(1000, SECOND).layer(leaf());
    let start = Instant::now();
    send(&mut service, 1, 5000).await;
    assert_eq!(start.elapsed(), Duration::ZERO, "it could not come at all otherwise");
    send(&mut service, 1, 1).await;
    assert!(is_about(start.elapsed(), SECOND * 4), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_empty_frame_costs_a_byte() {
    let mut service = FrameRateLayer::bytes(10, SECOND).layer(leaf());
    let start = Instant::now();
    send(&mut service, 20, 0).await;
    assert!(is_about(start.elapsed(), SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_clone_has_a_bucket_of_its_own() {
    let service = FrameRateLayer::new(10, SECOND).layer(leaf());
    let start = Instant::now();
    for _ in 0..10 {
        send(&mut service.clone(), 10, 1).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_once_in_an_age_lets_the_first_through() {
    let mut service = FrameRateLayer::new(1, Duration::MAX).layer(leaf());
    send(&mut service, 1, 1).await;
    assert!(tokio::time::timeout(SECOND * 1_000_000, service.ready()).await.is_err());
}

#[test]
#[should_panic(expected = "a rate has a number and a time")]
fn a_rate_of_nothing_is_refused_where_it_is_made() {
    let _ = FrameRateLayer::new(0, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_a_rate_beyond_the_clock_waits() {
    let mut service = FrameRateLayer::new(1, Duration::MAX).layer(leaf());
    send(&mut service, 1, 1).await;
    let next = tokio::time::timeout(1000 * 3600 * SECOND, send(&mut service, 1, 1));
    assert!(next.await.is_err());
}
