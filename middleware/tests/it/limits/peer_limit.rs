//! A cap on the connections of each peer.

use std::net::{IpAddr, SocketAddr};

use ropewalk_middleware::{Addr, CloseReason, Connection, Peer, PeerLimitLayer, Stream};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt};

use crate::common::{Hold, settle};

fn from(ip: &str) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(1024);
    let addr = SocketAddr::new(ip.parse().unwrap(), 40_000);
    (Connection::new(Stream::from_io(ours), Peer::new(addr)), theirs)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Serves a connection in a task of its own.
async fn serve<S>(service: &S, connection: Connection) -> JoinHandle<Result<(), S::Error>>
where
    S: Service<Connection, Future: Send + 'static, Response = (), Error: Send + 'static> + Clone,
{
    let mut service = service.clone();
    let Ok(ready) = service.ready().await else { panic!("the service is ready") };
    let task = tokio::spawn(ready.call(connection));
    settle().await;
    task
}

#[tokio::test]
async fn a_peer_has_as_many_as_the_cap_and_its_neighbour_as_many_again() {
    let (limit, hold) = (PeerLimitLayer::new(2).refuse_with("too many"), Hold::default());
    let service = limit.layer(hold.clone());
    let mut open = Vec::new();
    for peer in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"] {
        let (connection, theirs) = from(peer);
        open.push((serve(&service, connection).await, theirs));
    }
    assert_eq!((hold.now(), limit.active(ip("192.0.2.1")), limit.peers()), (4, 2, 2));

    let (connection, mut theirs) = from("192.0.2.1");
    let closing = connection.closing();
    let refused = serve(&service, connection).await;
    let mut text = [0; 8];
    theirs.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"too many");
    drop(theirs);
    refused.await.unwrap().unwrap();
    assert_eq!((closing.reason(), hold.ever()), (Some(CloseReason::Refused), 4));

    // One goes, one may come.
    let (task, theirs) = open.swap_remove(0);
    drop(theirs);
    task.await.unwrap().unwrap();
    assert_eq!(limit.active(ip("192.0.2.1")), 1);
    let (connection, _theirs) = from("192.0.2.1");
    let _task = serve(&service, connection).await;
    assert_eq!(hold.ever(), 5);
}

#[tokio::test]
async fn without_a_text_the_connection_is_closed() {
    let service = PeerLimitLayer::new(0).layer(Hold::default());
    let (connection, mut theirs) = from("192.0.2.1");
    let refused = serve(&service, connection).await;
    assert_eq!(theirs.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    drop(theirs);
    refused.await.unwrap().unwrap();
}

#[tokio::test]
async fn another_service_may_refuse() {
    let (hold, refusing) = (Hold::default(), Hold::default());
    let service = PeerLimitLayer::new(1).refuse_by(refusing.clone()).layer(hold.clone());
    let (one, _one) = from("2001:db8::1");
    let (two, _two) = from("2001:db8::2");
    let _tasks = (serve(&service, one).await, serve(&service, two).await);
    assert_eq!((hold.now(), refusing.now()), (1, 1));
}

#[tokio::test]
async fn an_ipv6_peer_is_its_network_and_a_mapped_address_is_ipv4() {
    let limit = PeerLimitLayer::new(100);
    assert_eq!(limit.max(), 100);
    let service = limit.layer(Hold::default());
    let mut open = Vec::new();
    for peer in [
        "2001:db8:1:2::1",
        "2001:db8:1:2:ffff::9",
        "2001:db8:1:3::1",
        "::ffff:192.0.2.1",
        "192.0.2.1",
    ] {
        let (connection, theirs) = from(peer);
        open.push((serve(&service, connection).await, theirs));
    }
    assert_eq!(limit.active(ip("2001:db8:1:2::77")), 2);
    assert_eq!(limit.active(ip("2001:db8:1:3::77")), 1);
    assert_eq!(limit.active(ip("192.0.2.1")), 2);
    assert_eq!(limit.active(ip("::ffff:192.0.2.1")), 2);
    assert_eq!(limit.peers(), 3);
}

#[tokio::test]
async fn a_peer_without_an_address_is_not_counted() {
    let (limit, hold) = (PeerLimitLayer::new(1), Hold::default());
    let service = limit.layer(hold.clone());
    let mut open = Vec::new();
    for addr in [Addr::Memory, Addr::Memory, Addr::Unix(None), Addr::Unix(None)] {
        let (ours, theirs) = duplex(64);
        let connection = Connection::new(Stream::from_io(ours), Peer::new(addr));
        open.push((serve(&service, connection).await, theirs));
    }
    assert_eq!((hold.now(), limit.peers()), (4, 0));
}

#[tokio::test]
async fn nothing_is_kept_of_peers_that_have_gone() {
    let limit = PeerLimitLayer::new(1);
    let service = limit.layer(Hold::default());
    for n in 0..100 {
        let (connection, theirs) = from(&format!("192.0.2.{n}"));
        let task = serve(&service, connection).await;
        assert_eq!(limit.peers(), 1);
        // Ended, or dropped.
        if n % 2 == 0 {
            drop(theirs);
            task.await.unwrap().unwrap();
        } else {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert_eq!(limit.peers(), 0);
    }
}
