//! A limit on the connections of each key.

use std::io;
use std::net::SocketAddr;

use ropewalk_middleware::{
    CloseReason, Connection, ConnectionInfo, KeyLimitLayer, Peer, Stream, TlsInfo, TlsVersion, key,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tower::{Layer, Service, service_fn};

use crate::common::{Hold, connection, settle};

type Served = (ConnectionInfo, DuplexStream, JoinHandle<io::Result<()>>);

async fn serve<K>(layer: &KeyLimitLayer<K>, (ours, theirs): (Connection, DuplexStream)) -> Served
where
    K: Clone + Eq + std::hash::Hash + Send + 'static,
{
    let info = ours.info();
    let task = tokio::spawn(layer.layer(Hold::default()).call(ours));
    settle().await;
    (info, theirs, task)
}

fn from(ip: &str) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(64);
    (
        Connection::new(Stream::from_io(ours), Peer::new(SocketAddr::new(ip.parse().unwrap(), 1))),
        theirs,
    )
}

fn reason(served: &Served) -> Option<CloseReason> {
    served.0.closing().reason()
}

#[tokio::test(start_paused = true)]
async fn as_many_as_the_limit_are_served_and_one_more_is_refused_with_the_text() {
    let layer = KeyLimitLayer::by(2, key::network(24, 48)).refuse_with("busy\n");
    let first = serve(&layer, from("192.0.2.1")).await;
    let second = serve(&layer, from("::ffff:192.0.2.2")).await;
    let mut third = serve(&layer, from("192.0.2.3")).await;
    let other = serve(&layer, from("198.51.100.1")).await;
    assert_eq!((reason(&first), reason(&second), reason(&other)), (None, None, None));
    assert_eq!(reason(&third), Some(CloseReason::KeyLimit));
    let mut text = String::new();
    third.1.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "busy\n");
    let office = "192.0.2.0/24".parse().unwrap();
    assert_eq!((layer.active(&office), layer.keys(), layer.connections()), (2, 2, 3));
    assert_eq!(layer.largest(1), [(office, 2)]);
    // One that ends makes room, and one that only closes its half to write as well.
    let (_, mut theirs, task) = first;
    theirs.shutdown().await.unwrap();
    task.await.unwrap().unwrap();
    assert_eq!(reason(&serve(&layer, from("192.0.2.3")).await), None);
    drop((second, other));
}

#[tokio::test(start_paused = true)]
async fn an_ipv6_network_is_as_long_as_its_prefix_and_peers_without_an_address_have_no_key() {
    let layer = KeyLimitLayer::by(1, key::network(24, 48));
    let _first = serve(&layer, from("2001:db8:1::1")).await;
    assert_eq!(
        reason(&serve(&layer, from("2001:db8:1:ffff::1")).await),
        Some(CloseReason::KeyLimit)
    );
    let _second = serve(&layer, from("2001:db8:2::1")).await;
    let held = [serve(&layer, connection()).await, serve(&layer, connection()).await];
    assert_eq!((reason(&held[0]), reason(&held[1])), (None, None));
    assert_eq!((layer.keys(), layer.connections()), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_server_name_is_a_key_and_without_tls_there_is_no_key() {
    let named = |name: &str| {
        let (ours, theirs) = duplex(64);
        let tls = TlsInfo::new(TlsVersion::Tls13).with_server_name(name);
        let peer = Peer::new("192.0.2.1:1".parse::<SocketAddr>().unwrap()).with_tls(tls);
        (Connection::new(Stream::from_io(ours), peer), theirs)
    };
    let layer = KeyLimitLayer::by(1, key::server_name);
    let _first = serve(&layer, named("a.example")).await;
    assert_eq!(reason(&serve(&layer, named("a.example")).await), Some(CloseReason::KeyLimit));
    let _other = serve(&layer, named("b.example")).await;
    let _plain = serve(&layer, from("192.0.2.1")).await;
    assert_eq!((layer.keys(), layer.connections()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_claimed_later_exchanged_and_given_back() {
    let layer = KeyLimitLayer::<&str>::new(1);
    let (one, two) = (serve(&layer, connection()).await, serve(&layer, connection()).await);
    assert_eq!((layer.keys(), layer.connections()), (0, 2));
    assert!(layer.claim(&one.0, "ann"));
    assert!(layer.claim(&one.0, "ann"), "it has the key already");
    assert!(!layer.claim(&two.0, "ann"));
    assert!(layer.claim(&two.0, "bob"));
    // A claim that fails changes nothing.
    assert!(!layer.claim(&two.0, "ann"));
    assert_eq!((layer.active(&"ann"), layer.active(&"bob")), (1, 1));
    assert!(layer.claim(&one.0, "cid"));
    assert_eq!((layer.active(&"ann"), layer.active(&"cid")), (0, 1));
    layer.release(&one.0);
    layer.release(&one.0);
    assert_eq!((layer.keys(), layer.active(&"bob")), (1, 1));
    drop((one.1, two.1));
    settle().await;
    assert_eq!((layer.keys(), layer.connections()), (0, 0));
    assert!(!layer.claim(&one.0, "ann"), "the connection has ended");
    assert!(!layer.claim(&connection().0.info(), "ann"), "it is not under the layer");
    assert_eq!(layer.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn limits_can_be_changed_for_all_keys_and_for_one() {
    let layer = KeyLimitLayer::<&str>::new(1);
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(serve(&layer, connection()).await);
    }
    assert!(layer.claim(&open[0].0, "ann"));
    assert!(!layer.claim(&open[1].0, "ann"));
    layer.clone().set_max(2);
    assert!(layer.claim(&open[1].0, "ann"));
    layer.set_limits([("ann", 3), ("eve", 0)]);
    assert!(layer.claim(&open[2].0, "ann"));
    assert!(!layer.claim(&open[3].0, "ann"));
    assert!(!layer.claim(&open[3].0, "eve"));
    // Those above a new limit stay, and no one is added.
    layer.set_limits([]);
    layer.set_max(1);
    assert_eq!((layer.max(), layer.active(&"ann")), (1, 3));
    layer.release(&open[0].0);
    layer.release(&open[1].0);
    assert!(!layer.claim(&open[3].0, "ann"));
    layer.release(&open[2].0);
    assert!(layer.claim(&open[3].0, "ann"));
}

#[tokio::test(start_paused = true)]
async fn connections_that_fail_panic_or_are_dropped_leave_nothing_behind() {
    let layer = KeyLimitLayer::by(9, key::host);
    let mut fails =
        layer.layer(service_fn(async |_: Connection| Err::<(), _>(io::Error::other("as told"))));
    assert!(fails.call(from("192.0.2.1").0).await.is_err());
    let mut panics = layer.layer(service_fn(async |connection: Connection| -> io::Result<()> {
        drop(connection);
        panic!("as told")
    }));
    assert!(tokio::spawn(panics.call(from("192.0.2.1").0)).await.is_err());
    drop(layer.layer(Hold::default()).call(from("192.0.2.1").0));
    let (info, _theirs, task) = serve(&layer, from("192.0.2.1")).await;
    task.abort();
    assert!(task.await.is_err());
    // The info lives on.
    assert_eq!((layer.keys(), layer.connections(), info.closing().reason()), (0, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_clones_share_one_count() {
    let layer = KeyLimitLayer::by(500, key::host);
    let mut held = Vec::new();
    for _ in 0..1000 {
        held.push(serve(&layer.clone(), from("192.0.2.1")).await);
    }
    let refused =
        held.iter().filter(|served| reason(served) == Some(CloseReason::KeyLimit)).count();
    assert_eq!((layer.active(&"192.0.2.1".parse().unwrap()), refused), (500, 500));
    drop(held);
    settle().await;
    assert_eq!((layer.keys(), layer.connections()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_around_a_connection_twice_counts_it_once() {
    let layer = KeyLimitLayer::by(1, key::host);
    let (ours, theirs) = from("192.0.2.1");
    let info = ours.info();
    let task = tokio::spawn(layer.layer(layer.layer(Hold::default())).call(ours));
    settle().await;
    assert_eq!(info.closing().reason(), None);
    assert_eq!((layer.active(&"192.0.2.1".parse().unwrap()), layer.connections()), (1, 1));
    drop(theirs);
    task.await.unwrap().unwrap();
    assert_eq!((layer.keys(), layer.connections()), (0, 0));
}

#[test]
#[should_panic(expected = "a prefix is no longer than an address")]
fn a_prefix_longer_than_an_address_is_refused_where_it_is_made() {
    let _ = key::network(33, 64);
}
