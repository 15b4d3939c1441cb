//! A thousand clones of a layer share what its documentation says, and no more.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::accept_rate::Rate;
use ropewalk_middleware::{
    AcceptRateLayer, CallLatencyLayer, CallLimitLayer, CloseReason, Connection,
    ConnectionLimitLayer, FrameRateLayer, LifetimeLayer, Peer, PeerLimitLayer, Stream,
};
use tokio::io::{DuplexStream, duplex};
use tokio::time::{Instant, advance, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Hold, settle};

const MANY: usize = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// A connection of this address, its reason once it has one, and its peer.
fn connection(host: &str) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(64);
    let peer = Peer::new(format!("{host}:1").parse::<SocketAddr>().unwrap());
    (Connection::new(Stream::from_io(ours), peer), theirs)
}

/// Opens a connection under each of a thousand clones, and one more; which is refused for this
/// reason. Then all end, and the next one is served.
async fn one_limit_for_all<L>(layer: L, reason: CloseReason, count: impl Fn() -> usize)
where
    L: Layer<Hold> + Clone,
    L::Service: Service<Connection, Future: Send + 'static>,
    <L::Service as Service<Connection>>::Response: Send + 'static,
    <L::Service as Service<Connection>>::Error: Send + std::fmt::Debug + 'static,
{
    let hold = Hold::default();
    let open = async |layer: &L| {
        let (ours, theirs) = connection("192.0.2.1");
        let info = ours.info();
        let task = tokio::spawn(layer.layer(hold.clone()).call(ours));
        settle().await;
        (info, theirs, task)
    };
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(open(&layer.clone()).await);
    }
    assert_eq!((hold.now(), count()), (MANY, MANY));
    let (info, ..) = open(&layer).await;
    assert_eq!((hold.now(), info.closing().reason()), (MANY, Some(reason)));
    for (_, theirs, task) in held {
        drop(theirs);
        task.await.unwrap().unwrap();
    }
    assert_eq!((hold.now(), count()), (0, 0));
    let (_, _theirs, task) = open(&layer).await;
    assert_eq!((hold.now(), count()), (1, 1));
    task.abort();
    settle().await;
    assert_eq!(count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_connections_and_one_of_a_peer_are_one_for_all_clones() {
    let limit = ConnectionLimitLayer::new(MANY).refuse_with("full\n");
    one_limit_for_all(limit.clone(), CloseReason::Refused, || limit.active()).await;
    let limit = PeerLimitLayer::new(MANY);
    let peers = limit.clone();
    // It counts peers, not their connections.
    let served = Hold::default();
    let open = |host: &'static str| {
        let (ours, theirs) = connection(host);
        (ours.info(), tokio::spawn(limit.clone().layer(served.clone()).call(ours)), theirs)
    };
    let held: Vec<_> = (0..MANY).map(|_| open("192.0.2.1")).collect();
    settle().await;
    let (info, _task, _theirs) = open("192.0.2.1");
    let (other, ..) = open("192.0.2.2");
    settle().await;
    assert_eq!((served.ever(), peers.peers()), (MANY + 1, 1));
    assert_eq!(
        (info.closing().reason(), other.closing().reason()),
        (Some(CloseReason::Refused), None)
    );
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_accepting_is_one_for_all_clones() {
    let layer = AcceptRateLayer::new().of_all(Rate::new(1, SECOND).burst(1000));
    let is_let_in = async |layer: &AcceptRateLayer| {
        let (ours, theirs) = connection("192.0.2.1");
        let info = ours.info();
        drop(theirs);
        let _ = layer.layer(Hold::default()).call(ours).await;
        info.closing().reason() != Some(CloseReason::AcceptRate)
    };
    for _ in 0..MANY {
        assert!(is_let_in(&layer.clone()).await);
    }
    assert!(!is_let_in(&layer.clone()).await && !is_let_in(&layer).await);
    advance(SECOND).await;
    assert!(is_let_in(&layer.clone()).await && !is_let_in(&layer).await);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_calls_is_one_for_all_clones_whether_they_wait_or_are_refused() {
    let forever = || {
        service_fn(async |_: Bytes| {
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(())
        })
    };
    let waits = CallLimitLayer::new(MANY);
    let mut calls = Vec::new();
    for _ in 0..MANY {
        let mut service = waits.clone().layer(forever());
        calls.push(service.ready().await.unwrap().call(Bytes::new()));
    }
    assert_eq!(waits.active(), MANY);
    let mut late = waits.layer(forever());
    assert!(timeout(SECOND, late.ready()).await.is_err());
    drop(calls.pop());
    assert!(timeout(SECOND, late.ready()).await.is_ok());
    drop((calls, late));
    assert_eq!(waits.active(), 0);
    let refuses = CallLimitLayer::new(MANY).refuse();
    let mut calls: Vec<_> = Vec::new();
    for _ in 0..MANY {
        let mut service = refuses.clone().layer(forever());
        calls.push(service.ready().await.unwrap().call(Bytes::new()));
    }
    assert_eq!(refuses.active(), MANY);
    let mut late = refuses.layer(forever());
    assert!(late.ready().await.unwrap().call(Bytes::new()).await.is_err());
    drop(calls);
    assert_eq!(refuses.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_frame_rate_share_nothing_and_those_of_a_latency_one_histogram() {
    let rate = FrameRateLayer::new(1, SECOND);
    let latency = CallLatencyLayer::new().every_call();
    let start = Instant::now();
    for _ in 0..MANY {
        let echo = service_fn(async |frame: Bytes| Ok::<_, Infallible>(frame));
        let mut service = rate.clone().layer(latency.clone().layer(echo));
        service.ready().await.unwrap().call(Bytes::new()).await.unwrap();
    }
    assert_eq!((start.elapsed(), latency.histogram().count()), (Duration::ZERO, MANY as u64));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_lifetime_have_one_task_and_each_connection_its_own_age() {
    let layer = LifetimeLayer::new(10 * SECOND);
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut open = Vec::new();
    for _ in 0..MANY {
        let (ours, theirs) = connection("192.0.2.1");
        open.push((ours.info(), layer.clone().layer(Hold::default()).call(ours), theirs));
    }
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() - before;
    assert_eq!(tasks, 1);
    advance(5 * SECOND).await;
    let (late, theirs) = connection("192.0.2.1");
    let last = late.info();
    open.push((last.clone(), layer.layer(Hold::default()).call(late), theirs));
    advance(5 * SECOND).await;
    settle().await;
    assert!(open[..MANY].iter().all(|(info, ..)| info.closing().is_draining()));
    assert!(!last.closing().is_draining());
}
