//! Limits on how fast connections come.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ropewalk_middleware::accept_rate::{AcceptRateLayer, Rate};
use ropewalk_middleware::{Addr, CloseReason, Connection, Peer, Stream};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::time::advance;
use tower::{Layer, Service};

use crate::common::Hold;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn from(addr: impl Into<Addr>) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(64);
    (Connection::new(Stream::from_io(ours), Peer::new(addr)), theirs)
}

/// Whether a connection from this address is let in now.
fn enters(layer: &AcceptRateLayer, ip: &str) -> bool {
    let (connection, _theirs) = from(SocketAddr::new(ip.parse().unwrap(), 40_000));
    let closing = connection.closing();
    drop(layer.layer(Hold::default()).call(connection));
    match closing.reason() {
        None => true,
        Some(CloseReason::AcceptRate) => false,
        Some(other) => panic!("{other}"),
    }
}

/// How many of so many connections from this address are let in now.
fn let_in(layer: &AcceptRateLayer, ip: &str, of: usize) -> usize {
    (0..of).filter(|_| enters(layer, ip)).count()
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_let_in_at_once_and_then_one_for_each_interval() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(10, SECOND).burst(3));
    assert_eq!(let_in(&layer, "192.0.2.1", 10), 3);
    advance(99 * MS).await;
    assert_eq!(let_in(&layer, "192.0.2.1", 2), 0);
    advance(MS).await;
    assert_eq!(let_in(&layer, "192.0.2.1", 2), 1);
    advance(200 * MS).await;
    assert_eq!(let_in(&layer, "192.0.2.1", 5), 2);
    // It holds no more than the burst, however long it fills.
    advance(60 * SECOND).await;
    assert_eq!(let_in(&layer, "192.0.2.1", 10), 3);
}

#[tokio::test(start_paused = true)]
async fn over_a_long_time_the_rate_is_exact() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(7, SECOND));
    let mut entered = 0;
    for _ in 0..10_000 {
        entered += let_in(&layer, "192.0.2.1", 2);
        advance(10 * MS).await;
    }
    // 100 seconds, and the first burst; the last token may be on its way.
    assert!((706..=707).contains(&entered), "{entered}");
}

#[tokio::test(start_paused = true)]
async fn each_peer_has_a_rate_of_its_own_and_an_ipv6_peer_is_its_network() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(2, SECOND));
    assert_eq!(let_in(&layer, "192.0.2.1", 5), 2);
    assert_eq!(let_in(&layer, "192.0.2.2", 5), 2);
    assert_eq!(let_in(&layer, "::ffff:192.0.2.2", 5), 0);
    assert_eq!(let_in(&layer, "2001:db8::1", 5), 2);
    assert_eq!(let_in(&layer, "2001:db8::2", 5), 0);
    assert_eq!(let_in(&layer, "2001:db8:0:1::2", 5), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_over_its_own_rate_takes_nothing_of_the_shared_rate() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(2, SECOND)).of_all(Rate::new(4, SECOND));
    assert_eq!(let_in(&layer, "192.0.2.1", 1000), 2);
    assert_eq!(let_in(&layer, "192.0.2.2", 5), 2);
    // The shared bucket is empty now, and a refusal by it costs a peer no token of its own.
    assert_eq!(let_in(&layer, "192.0.2.3", 5), 0);
    advance(250 * MS).await;
    assert_eq!(let_in(&layer, "192.0.2.3", 1), 1);
    advance(250 * MS).await;
    assert_eq!(let_in(&layer, "192.0.2.3", 1), 1);
}

#[tokio::test(start_paused = true)]
async fn peers_without_an_address_have_the_shared_rate_only() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(1, SECOND)).of_all(Rate::new(3, SECOND));
    let mut service = layer.layer(Hold::default());
    let mut refused = 0;
    for _ in 0..5 {
        let (connection, _theirs) = from(Addr::Memory);
        let closing = connection.closing();
        drop(service.call(connection));
        refused += usize::from(closing.reason() == Some(CloseReason::AcceptRate));
    }
    assert_eq!((refused, layer.peers()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn clones_share_the_buckets_and_another_layer_does_not() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(1, SECOND));
    let [one, clone] = [layer.clone(), layer];
    assert!(enters(&one, "192.0.2.1"));
    assert!(!enters(&clone, "192.0.2.1"));
    assert!(enters(&AcceptRateLayer::new().per_peer(Rate::new(1, SECOND)), "192.0.2.1"));
    assert_eq!(
        let_in(&AcceptRateLayer::new(), "192.0.2.1", 1000),
        1000,
        "without a rate all are let in"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_table_is_bounded_counted_and_forgets_full_buckets() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(1, 10 * SECOND));
    let address =
        |n: usize| Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap()).to_string();
    for n in 0..AcceptRateLayer::MAX_PEERS + 100 {
        assert!(enters(&layer, &address(n)));
    }
    assert_eq!((layer.peers(), layer.untracked()), (AcceptRateLayer::MAX_PEERS, 100));
    // The peers in the table still have their rate.
    assert!(!enters(&layer, &address(0)));
    // Ten seconds later every bucket is full, and the table is free for others.
    advance(10 * SECOND).await;
    assert!(enters(&layer, &address(1_000_000)));
    assert_eq!((layer.peers(), layer.untracked()), (1, 100));
}

#[tokio::test(start_paused = true)]
async fn a_refused_peer_gets_the_text() {
    let layer = AcceptRateLayer::new().per_peer(Rate::new(1, SECOND)).refuse_with("slow down\r\n");
    let mut service = layer.layer(Hold::default());
    let addr = SocketAddr::from(([192, 0, 2, 1], 40_000));
    let (connection, _first) = from(addr);
    let _first_call = service.call(connection);
    let (connection, mut theirs) = from(addr);
    let refused = tokio::spawn(service.call(connection));
    let mut text = [0; 11];
    theirs.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"slow down\r\n");
    drop(theirs);
    refused.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_once_in_an_age_lets_the_first_in() {
    let once = Rate::new(1, Duration::MAX);
    let layer = AcceptRateLayer::new().per_peer(once).of_all(Rate::new(u32::MAX, Duration::MAX));
    assert_eq!(let_in(&layer, "192.0.2.1", 3), 1);
    advance(1_000_000 * SECOND).await;
    assert_eq!((let_in(&layer, "192.0.2.1", 3), let_in(&layer, "192.0.2.2", 3)), (0, 1));
}
