//! Rates that connections share.

use std::convert::Infallible;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::key_rate::KeyRates;
use ropewalk_middleware::{BoxError, KeyRateLayer, RateExceeded};
use tokio::time::{Instant, advance, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn leaf() -> impl Service<Bytes, Response = (), Error = Infallible, Future: Send> + Clone + Send {
    service_fn(async |_: Bytes| Ok(()))
}

async fn send<S>(service: &mut S, frames: usize)
where
    S: Service<Bytes, Response = (), Error = Infallible>,
{
    for _ in 0..frames {
        service.ready().await.unwrap().call(Bytes::new()).await.unwrap();
    }
}

/// Whether a frame is let through; otherwise the time after which it may be sent again.
async fn passes<S>(service: &mut S, frame: &'static str) -> Result<(), Duration>
where
    S: Service<Bytes, Response = (), Error = BoxError>,
{
    let sent = service.ready().await.unwrap().call(Bytes::from(frame)).await;
    sent.map_err(|error| error.downcast_ref::<RateExceeded>().unwrap().retry_after())
}

/// The clock of the runtime goes in milliseconds.
fn is_about(elapsed: Duration, expected: Duration) -> bool {
    elapsed >= expected && elapsed <= expected + 2 * MS
}

#[tokio::test(start_paused = true)]
async fn all_connections_share_one_burst_and_then_one_rate() {
    let layer = KeyRateLayer::new(10, SECOND);
    let (mut one, mut two) = (layer.layer(leaf()), layer.clone().layer(leaf()));
    let start = Instant::now();
    send(&mut one, 4).await;
    send(&mut two, 6).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    send(&mut two, 1).await;
    assert!(is_about(start.elapsed(), SECOND / 10), "{:?}", start.elapsed());
    send(&mut one, 99).await;
    assert!(is_about(start.elapsed(), 10 * SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_connections_wait_in_their_order_and_get_the_rate_together() {
    let layer = KeyRateLayer::new(100, SECOND).burst(1);
    let start = Instant::now();
    let one = |n: u32| {
        let mut service = layer.clone().layer(leaf());
        tokio::spawn(async move {
            send(&mut service, 1).await;
            assert!(is_about(start.elapsed(), n * SECOND / 100), "{n}: {:?}", start.elapsed());
        })
    };
    let tasks: Vec<_> = (0..1000).map(one).collect();
    for task in tasks {
        task.await.unwrap();
    }
    // All tokens that had arrived are taken, and no more.
    let mut service = layer.layer(leaf());
    send(&mut service, 1).await;
    assert!(is_about(start.elapsed(), 10 * SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn over_time_the_rate_is_exact_however_the_frames_come() {
    let layer = KeyRateLayer::new(7, SECOND).burst(3);
    let (mut one, mut two) = (layer.layer(leaf()), layer.layer(leaf()));
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < 100 * SECOND {
        send(&mut one, sent % 5).await;
        send(&mut two, 1).await;
        sent += sent % 5 + 1;
        advance(50 * MS).await;
    }
    let most = 3 + 7 * start.elapsed().as_millis() / 1000 + 1;
    assert!((690..=most).contains(&(sent as u128)), "{sent} in {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_it_waits_returns_its_token() {
    let layer = KeyRateLayer::new(1, SECOND);
    let mut first = layer.layer(leaf());
    send(&mut first, 1).await;
    for _ in 0..1000 {
        let mut leaves = layer.layer(leaf());
        assert!(leaves.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // One that is ready and is not called returns it as well.
    let start = Instant::now();
    send(&mut first, 1).await;
    assert!(start.elapsed() <= SECOND, "{:?}", start.elapsed());
    advance(SECOND).await;
    let mut unused = layer.layer(leaf());
    unused.ready().await.unwrap();
    drop(unused);
    let start = Instant::now();
    send(&mut first, 1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_a_crowd_returns_make_no_burst_larger() {
    let layer = KeyRateLayer::new(1, SECOND).burst(2);
    let mut crowd: Vec<_> = (0..100).map(|_| layer.layer(leaf())).collect();
    for service in &mut crowd {
        let _ = Service::<Bytes>::poll_ready(service, &mut Context::from_waker(Waker::noop()));
    }
    // Their tokens have all arrived, and the bucket is full again.
    advance(1000 * SECOND).await;
    let mut service = layer.layer(leaf());
    send(&mut service, 1).await;
    drop(crowd);
    let start = Instant::now();
    send(&mut service, 2).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    send(&mut service, 1).await;
    assert!(is_about(start.elapsed(), SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_service_that_waits_has_no_token_of_its_own() {
    let layer = KeyRateLayer::new(1, SECOND).burst(2);
    let mut one = layer.layer(leaf());
    one.ready().await.unwrap();
    let mut clone = one.clone();
    send(&mut one, 1).await;
    send(&mut clone, 1).await;
    assert!(timeout(SECOND - MS, clone.ready()).await.is_err());
    drop(one);
    assert!(timeout(2 * MS, clone.ready()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_bucket_that_its_connections_share() {
    let rates = KeyRates::new(2, SECOND);
    let (mut ann, mut ann_too, mut bob) = (
        rates.of("ann").layer(leaf()),
        rates.clone().of("ann").layer(leaf()),
        rates.of("bob").layer(leaf()),
    );
    let start = Instant::now();
    send(&mut ann, 1).await;
    send(&mut ann_too, 1).await;
    send(&mut bob, 2).await;
    assert_eq!((start.elapsed(), rates.keys()), (Duration::ZERO, 2));
    send(&mut ann, 1).await;
    assert!(is_about(start.elapsed(), SECOND / 2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_frame_over_the_rate_is_refused_and_takes_no_token() {
    let layer = KeyRateLayer::new(10, SECOND).burst(2).refuse();
    let (mut one, mut two) = (layer.layer(leaf()), layer.clone().layer(leaf()));
    assert_eq!(passes(&mut one, "").await, Ok(()));
    assert_eq!(passes(&mut two, "").await, Ok(()));
    for _ in 0..100 {
        assert_eq!(passes(&mut one, "").await, Err(100 * MS));
    }
    advance(99 * MS).await;
    assert_eq!(passes(&mut two, "").await, Err(MS));
    advance(MS).await;
    assert_eq!(passes(&mut two, "").await, Ok(()));
    assert_eq!(passes(&mut one, "").await, Err(100 * MS));
    assert_eq!(layer.refused(), 102);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_found_in_each_frame_and_its_bucket_is_that_of_all_connections() {
    let users = KeyRates::new(1, SECOND);
    let layer = users.by(|frame: &Bytes| frame.first().copied());
    let (mut one, mut two) = (layer.layer(leaf()), layer.layer(leaf()));
    assert_eq!(passes(&mut one, "a1").await, Ok(()));
    assert_eq!(passes(&mut one, "a2").await, Err(SECOND));
    assert_eq!(passes(&mut one, "b1").await, Ok(()));
    assert_eq!(passes(&mut two, "a3").await, Err(SECOND));
    assert_eq!(passes(&mut two, "").await, Ok(()));
    assert_eq!(passes(&mut one.clone(), "b2").await, Err(SECOND));
    assert_eq!((users.keys(), users.refused()), (3, 3));
    let mut connection = users.of(Some(b'a')).layer(leaf());
    let start = Instant::now();
    send(&mut connection, 1).await;
    assert!(
        is_about(start.elapsed(), SECOND),
        "a key of a connection is the same key: {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_table_forgets_an_eighth_of_the_keys_that_no_connection_uses() {
    let rates = KeyRates::new(1, 10 * SECOND);
    let layer = rates.by(|frame: &Bytes| frame.clone());
    let mut service = layer.layer(leaf());
    let mut first = rates.of(Bytes::from("held")).layer(leaf());
    send(&mut first, 1).await;
    for n in 1..KeyRates::<Bytes>::MAX_KEYS {
        assert!(service.ready().await.unwrap().call(Bytes::from(n.to_string())).await.is_ok());
    }
    assert_eq!((rates.keys(), rates.untracked()), (KeyRates::<Bytes>::MAX_KEYS, 0));
    assert_eq!(passes(&mut service, "one more").await, Ok(()));
    assert_eq!(passes(&mut service, "one more").await, Err(10 * SECOND));
    assert_eq!(passes(&mut service, "and another one").await, Ok(()));
    let forgotten = KeyRates::<Bytes>::MAX_KEYS / 8 - 1;
    assert_eq!(rates.untracked(), forgotten as u64);
    assert_eq!(rates.keys(), KeyRates::<Bytes>::MAX_KEYS - forgotten + 2);
    // A key that a connection holds stays with its bucket.
    advance(10 * SECOND).await;
    send(&mut first, 1).await;
    assert_eq!(passes(&mut service, "new").await, Ok(()));
    assert_eq!(passes(&mut service, "held").await, Err(10 * SECOND));
    // The full ones go when their space is needed.
    for n in 0..10_000 {
        assert!(service.ready().await.unwrap().call(Bytes::from(format!("new {n}"))).await.is_ok());
    }
    assert!(rates.keys() <= 10_004, "{}", rates.keys());
    assert_eq!(rates.untracked(), forgotten as u64);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_names_many_keys_locks_no_other_out() {
    let rates = KeyRates::new(1, 3600 * SECOND);
    let layer = rates.by(|frame: &Bytes| frame.clone());
    let (mut attacker, mut good) = (layer.layer(leaf()), layer.layer(leaf()));
    for n in 0..4 * KeyRates::<Bytes>::MAX_KEYS {
        let _ = attacker.ready().await.unwrap().call(Bytes::from(n.to_string())).await;
        assert!(rates.keys() <= KeyRates::<Bytes>::MAX_KEYS);
    }
    for user in ["ann", "bob", "cid"] {
        assert_eq!(passes(&mut good, user).await, Ok(()));
        assert_eq!(passes(&mut good, user).await, Err(3600 * SECOND), "and they have their rate");
    }
}

#[tokio::test(start_paused = true)]
async fn if_connections_use_all_keys_of_a_full_table_further_keys_share_one_bucket() {
    let rates = KeyRates::new(1, SECOND);
    let held: Vec<_> =
        (0..KeyRates::<usize>::MAX_KEYS).map(|key| rates.of(key).layer(leaf())).collect();
    let (mut one, mut two) = (rates.of(1_000_000).layer(leaf()), rates.of(2_000_000).layer(leaf()));
    assert_eq!((rates.keys(), rates.untracked()), (KeyRates::<usize>::MAX_KEYS, 2));
    send(&mut one, 1).await;
    assert!(timeout(SECOND - MS, two.ready()).await.is_err());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_once_in_an_age_lets_the_first_through() {
    let layer = KeyRateLayer::new(1, Duration::MAX);
    let mut service = layer.layer(leaf());
    send(&mut service, 1).await;
    assert!(timeout(1_000_000 * SECOND, service.ready()).await.is_err());
}

#[test]
#[should_panic(expected = "a burst of 0")]
fn a_burst_of_nothing_is_refused_where_it_is_made() {
    let _ = KeyRateLayer::new(1, SECOND).burst(0);
}
