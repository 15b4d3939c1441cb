//! The memory of an idle connection under the layers of a public server.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::Duration;

use ropewalk_middleware::accept_rate::Rate;
use ropewalk_middleware::{
    AcceptRateLayer, AccessLayer, Connection, LifetimeLayer, LogLayer, Peer, PeerLimitLayer, Stream,
};
use stats_alloc::Region;
use tower::{Service, ServiceBuilder};

use crate::common::Hold;
use crate::{ALLOCATOR, alone};

const CONNECTIONS: u32 = 4096;
const MINUTE: Duration = Duration::from_secs(60);

/// The bytes of each of many connections that wait, each with an address of its own.
fn idle_bytes<S>(mut service: S) -> usize
where
    S: Service<Connection, Response = (), Error = io::Error>,
{
    let connection = |n: u32| {
        let peer = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 1));
        let (ours, theirs) = tokio::io::duplex(16);
        (Connection::new(Stream::from_io(ours), Peer::new(peer)), theirs)
    };
    let (mut connections, _peers): (Vec<_>, Vec<_>) = (0..CONNECTIONS).map(connection).unzip();
    let mut open = Vec::with_capacity(connections.len());
    let region = Region::new(ALLOCATOR);
    for connection in connections.drain(..) {
        let mut call = Box::pin(service.call(connection));
        let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        open.push(call);
    }
    let stats = region.change();
    (stats.bytes_allocated - stats.bytes_deallocated) / open.len()
}

#[test]
fn five_layers_cost_an_idle_connection_at_most_650_bytes() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let bare = idle_bytes(Hold::default());
    let rate = Rate::new(10, MINUTE);
    let layers = ServiceBuilder::new()
        .layer(LogLayer::new())
        .layer(AccessLayer::new("allow all".parse().unwrap()))
        .layer(AcceptRateLayer::new().per_peer(rate).of_all(Rate::new(1 << 30, MINUTE)))
        .layer(PeerLimitLayer::new(100))
        .layer(LifetimeLayer::new(MINUTE).jitter(MINUTE))
        .service(Hold::default());
    let layered = idle_bytes(layers) - bare;
    assert!(layered <= 650, "{layered} bytes");
}
