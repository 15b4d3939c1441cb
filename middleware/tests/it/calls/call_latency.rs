//! A histogram of how long calls take.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::{CallLatencyLayer, Histogram};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

/// Takes a millisecond for each byte.
fn slow() -> impl Service<Bytes, Response = (), Error = Infallible, Future: Send> + Clone {
    service_fn(async |frame: Bytes| {
        sleep(MS * u32::try_from(frame.len()).unwrap()).await;
        Ok(())
    })
}

fn bytes(n: usize) -> Bytes {
    vec![b'x'; n].into()
}

/// Within the eighth that a bucket may add.
fn is_about(found: Duration, expected: Duration) -> bool {
    found > expected && found <= expected + expected / 8 + MS / 1000
}

#[tokio::test(start_paused = true)]
async fn every_call_is_timed_where_it_is_asked_for() {
    let layer = CallLatencyLayer::new().every_call();
    let histogram = layer.histogram();
    let mut service = layer.layer(slow());
    for n in 1..=100 {
        service.ready().await.unwrap().call(bytes(n)).await.unwrap();
    }
    assert_eq!(histogram.count(), 100);
    for n in [1, 10, 50, 99, 100] {
        let quantile = histogram.quantile(f64::from(n) / 100.0);
        assert!(is_about(quantile, MS * n), "{n}: {quantile:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sample_stands_for_all() {
    let layer = CallLatencyLayer::new();
    let histogram = layer.histogram();
    let mut service = layer.layer(slow());
    for n in 1..=16 * 100 {
        service.ready().await.unwrap().call(bytes(1)).await.unwrap();
        if n <= 16 {
            assert_eq!(histogram.count(), n, "the first are all timed");
        }
    }
    assert_eq!(histogram.count(), 16 * 100);
    assert_eq!(histogram.buckets().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_calls_between_two_samples_are_not_timed() {
    let layer = CallLatencyLayer::new();
    let mut service = layer.layer(slow());
    // The first 16 are timed, and the 17th.
    for n in 0..32 {
        service.call(bytes(if n <= 16 { 1 } else { 100 })).await.unwrap();
    }
    let histogram = layer.histogram();
    assert_eq!(histogram.count(), 32);
    assert!(
        is_about(histogram.quantile(1.0), Duration::from_millis(1)),
        "{:?}",
        histogram.quantile(1.0)
    );
}

#[tokio::test(start_paused = true)]
async fn all_connections_are_in_one_histogram() {
    let layer = CallLatencyLayer::new();
    let service = layer.layer(slow());
    for _ in 0..10 {
        service.clone().oneshot(bytes(1)).await.unwrap();
    }
    layer.layer(slow()).oneshot(bytes(2)).await.unwrap();
    assert_eq!(layer.histogram().count(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_counts_with_the_time_it_had() {
    let layer = CallLatencyLayer::new();
    let histogram = layer.histogram();
    timeout(5 * MS, layer.layer(slow()).oneshot(bytes(100))).await.unwrap_err();
    assert_eq!(histogram.count(), 1);
    assert!(is_about(histogram.quantile(1.0), 5 * MS), "{histogram:?}");
}

#[test]
fn an_empty_histogram_has_no_quantiles() {
    let histogram = Histogram::new();
    assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, Duration::ZERO));
    assert_eq!(format!("{histogram:?}"), "{}");
}

#[test]
fn a_quantile_out_of_range_is_the_next_in_it() {
    let histogram = Histogram::new();
    histogram.record(MS, 3);
    histogram.record(MS * 100, 1);
    assert_eq!(histogram.quantile(7.0), histogram.quantile(1.0));
    assert_eq!(histogram.quantile(-1.0), histogram.quantile(0.0));
    assert!(is_about(histogram.quantile(0.75), MS) && is_about(histogram.quantile(0.76), MS * 100));
}

#[test]
fn durations_of_73_minutes_and_more_are_in_one_bucket() {
    let histogram = Histogram::new();
    for hours in [2, 20, 200] {
        histogram.record(Duration::from_secs(hours * 3600), 1);
    }
    assert_eq!(histogram.buckets().count(), 1);
    histogram.record(Duration::from_secs(3600), 1);
    assert_eq!(histogram.buckets().count(), 2);
}
