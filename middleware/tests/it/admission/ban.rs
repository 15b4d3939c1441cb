//! Peers that are refused for a time because of their offences.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ropewalk_middleware::{
    BanLayer, BanRules, CloseReason, Connection, ConnectionInfo, Peer, Stream, ban,
};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::advance;
use tower::{Layer, Service};

use crate::common::{Hold, connection, settle};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn rules() -> BanRules {
    BanRules::new(3, 60 * SECOND, 600 * SECOND)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

type Served = (ConnectionInfo, DuplexStream, JoinHandle<io::Result<()>>);

async fn serve(layer: &BanLayer, host: &str) -> Served {
    let (ours, theirs) = duplex(64);
    let ours = Connection::new(Stream::from_io(ours), Peer::new(SocketAddr::new(ip(host), 1)));
    let info = ours.info();
    let task = tokio::spawn(layer.layer(Hold::default()).call(ours));
    settle().await;
    (info, theirs, task)
}

async fn is_refused(layer: &BanLayer, host: &str) -> bool {
    serve(layer, host).await.0.closing().reason() == Some(CloseReason::Banned)
}

#[tokio::test(start_paused = true)]
async fn the_last_offence_bans_a_peer_for_exactly_its_time() {
    let layer = BanLayer::new(rules()).refuse_with("go away\n");
    let (info, _theirs, _task) = serve(&layer, "192.0.2.1").await;
    ban::offence(&info);
    ban::offence(&info);
    assert_eq!((info.closing().is_draining(), layer.suspects(), layer.bans()), (false, 1, 0));
    assert!(!is_refused(&layer, "192.0.2.1").await);
    ban::offence(&info);
    // The offender's connection ends, and it takes no more frames.
    assert_eq!((info.closing().is_draining(), info.stats().is_at_frame_limit()), (true, true));
    assert_eq!(info.closing().reason(), Some(CloseReason::Banned));
    assert_eq!(
        (layer.suspects(), layer.bans(), layer.banned()),
        (0, 1, vec![(ip("192.0.2.1"), 600 * SECOND)])
    );
    let (_, mut theirs, _task) = serve(&layer, "192.0.2.1").await;
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "go away\n");
    assert!(!is_refused(&layer, "192.0.2.2").await);
    advance(600 * SECOND - MS).await;
    assert!(is_refused(&layer, "192.0.2.1").await);
    advance(MS).await;
    assert!(!is_refused(&layer, "192.0.2.1").await);
    assert_eq!((layer.banned(), layer.is_banned(&ip("192.0.2.1"))), (vec![], false));
}

#[tokio::test(start_paused = true)]
async fn offences_are_forgotten_when_their_time_is_over() {
    let layer = BanLayer::new(rules());
    let peer = ip("192.0.2.1");
    assert!(!layer.offend(&peer, 2));
    advance(60 * SECOND).await;
    // Still within the minute, which has its last moment now.
    assert_eq!(layer.suspects(), 1);
    advance(MS).await;
    assert_eq!(layer.suspects(), 0);
    assert!(!layer.offend(&peer, 2));
    advance(60 * SECOND).await;
    assert!(layer.offend(&peer, 1));
    // A ban that is over begins anew.
    advance(600 * SECOND).await;
    assert!(!layer.offend(&peer, 2));
    assert!(layer.offend(&peer, u32::MAX));
    assert_eq!(layer.bans(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_offence_of_a_banned_peer_does_not_lengthen_the_ban() {
    let layer = BanLayer::new(rules());
    let (late, _theirs, _task) = serve(&layer, "192.0.2.1").await;
    assert!(layer.offend(&ip("192.0.2.1"), 3));
    advance(SECOND).await;
    assert!(!late.closing().is_draining(), "other connections of the peer stay");
    ban::offence(&late);
    assert!(late.closing().is_draining());
    assert_eq!((layer.bans(), layer.banned()), (1, vec![(ip("192.0.2.1"), 599 * SECOND)]));
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_a_network_and_one_without_an_address_is_not_watched() {
    let layer = BanLayer::new(BanRules::new(1, SECOND, SECOND));
    let (info, _theirs, _task) = serve(&layer, "2001:db8::1").await;
    ban::offence(&info);
    assert!(is_refused(&layer, "2001:db8::2").await);
    assert!(!is_refused(&layer, "2001:db8:0:1::2").await);
    let (ours, _theirs) = connection();
    let info = ours.info();
    let _task = tokio::spawn(layer.layer(Hold::default()).call(ours));
    settle().await;
    ban::offence(&info);
    assert!(!info.closing().is_draining());
}

#[tokio::test(start_paused = true)]
async fn bans_are_made_ended_and_listed_by_hand_and_rules_are_replaced() {
    let layer = BanLayer::new(rules());
    let peer = ip("192.0.2.1");
    assert!(!layer.pardon(&peer));
    assert!(layer.ban(peer, Duration::MAX));
    advance(1_000_000 * SECOND).await;
    assert_eq!(layer.banned(), [(peer, Duration::MAX)]);
    assert!(is_refused(&layer.clone(), "192.0.2.1").await);
    assert!(layer.pardon(&peer));
    assert!(!is_refused(&layer, "192.0.2.1").await);
    layer.clone().replace(BanRules::new(1, SECOND, 2 * SECOND));
    assert_eq!(layer.rules(), BanRules::new(1, SECOND, 2 * SECOND));
    assert!(layer.offend(&peer, 1));
    assert_eq!(layer.banned(), [(peer, 2 * SECOND)]);
    layer.replace(rules());
    assert_eq!(layer.banned(), [(peer, 2 * SECOND)], "a ban that has begun stays as it is");
}

#[tokio::test(start_paused = true)]
async fn each_layer_around_a_connection_counts_by_its_own_key() {
    let by_listener =
        BanLayer::by(BanRules::new(2, SECOND, SECOND), |connection| Some(connection.listener()));
    let by_host = BanLayer::new(BanRules::new(3, SECOND, SECOND));
    let (ours, _theirs) = duplex(64);
    let ours =
        Connection::new(Stream::from_io(ours), Peer::new(SocketAddr::new(ip("192.0.2.1"), 1)));
    let info = ours.info();
    let _task = tokio::spawn(by_listener.layer(by_host.layer(Hold::default())).call(ours));
    settle().await;
    ban::offence(&info);
    ban::offence(&info);
    ban::offence(&info);
    assert_eq!((by_listener.bans(), by_host.bans()), (1, 1));
    assert!(by_listener.is_banned(&0) && by_host.is_banned(&ip("192.0.2.1")));
}

#[tokio::test(start_paused = true)]
async fn a_layer_and_a_clone_of_it_around_one_connection_count_an_offence_once() {
    let layer = BanLayer::new(rules());
    let other = BanLayer::new(rules());
    let (ours, _theirs) = duplex(64);
    let ours =
        Connection::new(Stream::from_io(ours), Peer::new(SocketAddr::new(ip("192.0.2.1"), 1)));
    let info = ours.info();
    let inner = layer.clone().refuse_with("go away\n").layer(Hold::default());
    let _task = tokio::spawn(layer.layer(other.layer(inner)).call(ours));
    settle().await;
    ban::offence(&info);
    ban::offence(&info);
    assert_eq!((layer.bans(), layer.suspects(), info.closing().is_draining()), (0, 1, false));
    ban::offence(&info);
    // Another layer with the same rules has a table of its own.
    assert_eq!((layer.bans(), other.bans(), info.closing().is_draining()), (1, 1, true));
}

#[tokio::test(start_paused = true)]
async fn a_full_table_is_bounded_counted_and_forgets_expired_rows() {
    let layer = BanLayer::new(BanRules::new(1, SECOND, 10 * SECOND));
    let address =
        |n: usize| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap()));
    for n in 0..BanLayer::MAX_KEYS {
        assert!(layer.offend(&address(n), 1));
    }
    assert!(!layer.offend(&address(1_000_000), 1));
    assert!(!layer.ban(address(1_000_001), SECOND));
    assert_eq!((layer.banned().len(), layer.untracked()), (BanLayer::MAX_KEYS, 2));
    // Those in the table are still banned.
    assert!(layer.is_banned(&address(0)));
    advance(10 * SECOND).await;
    assert!(layer.offend(&address(1_000_000), 1));
    assert_eq!((layer.banned().len(), layer.untracked()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_suspects_keeps_no_offender_from_being_banned() {
    let layer = BanLayer::new(BanRules::new(2, 600 * SECOND, 600 * SECOND));
    let address =
        |n: usize| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap()));
    let offender = ip("192.0.2.1");
    assert!(layer.ban(ip("192.0.2.2"), 600 * SECOND));
    for n in 0..2 * BanLayer::MAX_KEYS {
        assert!(!layer.offend(&address(n), 1));
    }
    assert!(!layer.offend(&offender, 1));
    assert!(layer.offend(&offender, 1));
    assert!(layer.is_banned(&offender) && layer.is_banned(&ip("192.0.2.2")), "bans stay");
    assert!(layer.untracked() >= 8000, "the forgotten are counted: {}", layer.untracked());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_clones_share_one_table() {
    let layer = BanLayer::new(BanRules::new(1000, SECOND, SECOND));
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(serve(&layer.clone(), "192.0.2.1").await);
    }
    let (last, others) = open.split_last().unwrap();
    others.iter().for_each(|(info, ..)| ban::offence(info));
    assert_eq!(layer.bans(), 0);
    ban::offence(&last.0);
    assert_eq!((layer.bans(), last.0.closing().is_draining()), (1, true));
}

#[tokio::test]
async fn without_the_layer_no_offence_is_counted() {
    let info = connection().0.info();
    ban::offence(&info);
    assert!(!info.closing().is_draining());
}

#[test]
#[should_panic(expected = "with no offence needed")]
fn rules_without_an_offence_are_refused_where_they_are_made() {
    let _ = BanRules::new(0, SECOND, SECOND);
}
