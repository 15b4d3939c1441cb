//! A cap under which connections make room for others, and that stays exact.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ropewalk_middleware::limit::{ConnectionLimit, RefuseWith};
use ropewalk_middleware::{
    Addr, CloseReason, Closing, Connection, ConnectionLimitLayer, MakeRoom, Peer, Stream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{advance, timeout};
use tower::{Layer, Service, ServiceExt};

use crate::common::{Hold, settle};

/// A connection that is served or refused, and its peer.
struct Served {
    peer: DuplexStream,
    closing: Closing,
    task: JoinHandle<std::io::Result<()>>,
}

async fn serve(
    limit: &mut ConnectionLimit<Hold, RefuseWith>,
    host: &str,
    listener: usize,
) -> Served {
    let (ours, peer) = duplex(1024);
    let addr = SocketAddr::new(host.parse::<IpAddr>().unwrap(), 1024);
    let connection =
        Connection::accepted(Stream::from_io(ours), Peer::new(Addr::Tcp(addr)), listener);
    let closing = connection.closing();
    let run = limit.ready().await.unwrap().call(connection);
    // As a server does: dropped at the abort.
    let told = closing.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = std::future::poll_fn(|cx| told.poll_aborted(cx)) => Ok(()),
            result = run => result,
        }
    });
    settle().await;
    Served { peer, closing, task }
}

fn limit(max: usize) -> ConnectionLimitLayer<RefuseWith> {
    ConnectionLimitLayer::new(max).refuse_with("full").make_room(MakeRoom::new())
}

async fn is_refused(mut served: Served) -> bool {
    let mut heard = String::new();
    // One that is served hears nothing.
    if timeout(Duration::from_millis(1), served.peer.read_to_string(&mut heard)).await.is_err() {
        return false;
    }
    drop(served.peer);
    served.task.await.unwrap().unwrap();
    heard == "full" && served.closing.reason() == Some(CloseReason::Refused)
}

#[tokio::test(start_paused = true)]
async fn the_one_idle_for_longest_makes_room_and_without_one_the_newcomer_is_refused() {
    let (hold, layer) = (Hold::default(), limit(2));
    let mut service = layer.layer(hold.clone());
    let first = serve(&mut service, "192.0.2.1", 0).await;
    advance(Duration::from_secs(1)).await;
    let second = serve(&mut service, "192.0.2.2", 0).await;
    advance(Duration::from_secs(58)).await;
    assert!(is_refused(serve(&mut service, "192.0.2.3", 0).await).await);

    advance(Duration::from_secs(1)).await;
    let third = serve(&mut service, "192.0.2.3", 0).await;
    assert_eq!(first.closing.reason(), Some(CloseReason::MadeRoomIdle));
    assert_eq!((second.closing.reason(), third.closing.reason()), (None, None));
    assert_eq!((hold.now(), hold.most(), hold.ever(), layer.active()), (2, 2, 3, 2));
}

#[tokio::test(start_paused = true)]
async fn an_address_above_its_share_makes_room_for_another_and_not_for_itself() {
    let (hold, layer) = (Hold::default(), limit(4));
    let mut service = layer.layer(hold.clone());
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(serve(&mut service, "192.0.2.1", 0).await);
        advance(Duration::from_secs(1)).await;
    }
    // The first is not idle.
    crowd[0].peer.write_all(b"x").await.unwrap();
    settle().await;
    assert!(is_refused(serve(&mut service, "192.0.2.1", 0).await).await);
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(serve(&mut service, "192.0.2.2", 0).await);
    }
    assert!(is_refused(serve(&mut service, "192.0.2.2", 0).await).await);
    let reasons: Vec<_> = crowd.iter().map(|served| served.closing.reason()).collect();
    let share = Some(CloseReason::MadeRoomShare);
    assert_eq!(reasons, [None, share, share, None]);
    assert_eq!((hold.now(), hold.most(), layer.available()), (4, 4, 0));
    drop((crowd, others));
    settle().await;
    assert_eq!((hold.now(), layer.available()), (0, 4), "each place comes back");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_served_only_when_the_one_that_makes_room_has_gone() {
    let (hold, layer) = (Hold::default(), limit(1));
    let mut service = layer.layer(hold.clone());
    // Held up: it is told to go, and goes later.
    let (ours, _peer) = duplex(1024);
    let first = Connection::new(Stream::from_io(ours), Peer::new(Addr::Unix(None)));
    let closing = first.closing();
    let first = service.ready().await.unwrap().call(first);
    let first = tokio::spawn(first);
    settle().await;
    advance(Duration::from_secs(60)).await;
    let second = serve(&mut service, "192.0.2.1", 0).await;
    assert!(closing.is_aborted());
    assert_eq!((hold.now(), hold.ever(), layer.active()), (1, 1, 1));
    assert!(is_refused(serve(&mut service, "192.0.2.2", 0).await).await, "the place is another's");
    first.abort();
    settle().await;
    assert_eq!((hold.now(), hold.ever(), layer.active()), (1, 2, 1));
    drop(second.peer);
    settle().await;
    assert_eq!(layer.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_it_waits_for_a_slot_takes_no_slot() {
    let layer = limit(1);
    let mut service = layer.layer(Hold::default());
    let (ours, peer) = duplex(1024);
    let first = tokio::spawn(
        service
            .ready()
            .await
            .unwrap()
            .call(Connection::new(Stream::from_io(ours), Peer::new(Addr::Memory))),
    );
    settle().await;
    advance(Duration::from_secs(60)).await;
    let second = serve(&mut service, "192.0.2.1", 0).await;
    second.task.abort();
    drop(peer);
    first.await.unwrap().unwrap();
    settle().await;
    assert_eq!((layer.active(), layer.available()), (0, 1));
    advance(Duration::from_secs(30)).await;
    let third = serve(&mut service, "192.0.2.1", 0).await;
    assert_eq!((layer.active(), third.closing.reason()), (1, None));
    // It has gone from among those that make room as well, which by now it would have been the
    // first of.
    advance(Duration::from_secs(30)).await;
    assert!(is_refused(serve(&mut service, "192.0.2.2", 0).await).await);
    assert_eq!((layer.active(), third.closing.reason()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn each_listener_has_a_crowd_of_its_own_and_waiting_makes_no_room() {
    let layer = limit(1).per_listener();
    let mut service = layer.layer(Hold::default());
    let first = serve(&mut service, "192.0.2.1", 0).await;
    let other = serve(&mut service, "192.0.2.1", 1).await;
    advance(Duration::from_secs(60)).await;
    let _second = serve(&mut service, "192.0.2.2", 1).await;
    assert_eq!(
        (first.closing.reason(), other.closing.reason()),
        (None, Some(CloseReason::MadeRoomIdle))
    );

    let mut waiting = limit(1).wait().layer(Hold::default());
    let (ours, _peer) = duplex(1024);
    let _run = waiting
        .ready()
        .await
        .unwrap()
        .call(Connection::new(Stream::from_io(ours), Peer::new(Addr::Memory)));
    advance(Duration::from_secs(600)).await;
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(Service::poll_ready(&mut waiting, &mut cx).is_pending());
}
