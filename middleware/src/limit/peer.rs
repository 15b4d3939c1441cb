use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tower_layer::Layer;
use tower_service::Service;

use super::future::ResponseFuture;
use super::overflow::{Overflow, RefuseBy, RefuseWith};
use super::peers::{PeerPlace, Peers};
use crate::Connection;

/// Limits how many connections one peer has open at once, as Twisted's `LimitConnectionsByPeer`
/// does.
///
/// A peer is an IPv4 address, or the first 64 bits of an IPv6 address. Peers without an address (on
/// Unix sockets and in memory) are not limited. A layer, its clones and all services made from them
/// share their counts, over all endpoints.
///
/// When a peer has all its slots, a further connection of it is refused: it is closed without a
/// text, or with [a text](Self::refuse_with), or served by [another service](Self::refuse_by), with
/// the same close reasons and the same limit on refusals under way as those of a
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer). It can't wait in the backlog, because its
/// peer is known only once it is accepted.
///
/// Many people may share an address, behind a NAT or a proxy: choose a limit that leaves them room.
/// On a `proxy+` endpoint the address in the PROXY header counts. A header without one (`UNKNOWN`,
/// `LOCAL`) leaves that of the proxy, so all such connections (health checks, mostly) share one
/// limit.
///
/// It goes around connections only.
///
/// ```
/// use ropewalk_middleware::PeerLimitLayer;
///
/// let limit = PeerLimitLayer::new(20).refuse_with("Too many connections from your address\r\n");
/// assert_eq!(limit.active("192.0.2.1".parse().unwrap()), 0);
/// ```
#[derive(Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct PeerLimitLayer<P = RefuseWith> {
    peers: Arc<Peers>,
    overflow: P,
}

impl<P: Clone> Clone for PeerLimitLayer<P> {
    /// Another handle on the same counts.
    fn clone(&self) -> Self {
        Self { peers: Arc::clone(&self.peers), overflow: self.overflow.clone() }
    }
}

impl PeerLimitLayer {
    /// At most `max` connections of one peer at once; the others are closed without a text. With 0
    /// each is refused.
    pub fn new(max: usize) -> Self {
        Self { peers: Peers::new(max), overflow: RefuseWith(Bytes::new()) }
    }
}

impl<P> PeerLimitLayer<P> {
    /// A connection over the limit receives this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> PeerLimitLayer<RefuseWith> {
        PeerLimitLayer { peers: self.peers, overflow: RefuseWith(text.into()) }
    }

    /// A connection over the limit is served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> PeerLimitLayer<RefuseBy<R>> {
        PeerLimitLayer { peers: self.peers, overflow: RefuseBy(service) }
    }

    /// How many connections this peer has at this moment.
    pub fn active(&self, ip: IpAddr) -> usize {
        self.peers.of(ip)
    }

    /// How many peers have a connection at this moment.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// The limit.
    pub fn max(&self) -> usize {
        self.peers.max
    }
}

impl<S, P: Clone> Layer<S> for PeerLimitLayer<P> {
    type Service = PeerLimit<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        PeerLimit { inner, peers: Arc::clone(&self.peers), overflow: self.overflow.clone() }
    }
}

/// A service with a limit on each peer's connections; made by [`PeerLimitLayer`].
#[derive(Clone)]
pub struct PeerLimit<S, P = RefuseWith> {
    inner: S,
    peers: Arc<Peers>,
    overflow: P,
}

impl<S, P> PeerLimit<S, P> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, by value.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A connection under a limit on its peer: served or refused.
pub type PeerLimitFuture<F, R> = ResponseFuture<F, R, PeerPlace>;

impl<S, P> Service<Connection> for PeerLimit<S, P>
where
    S: Service<Connection, Response = ()>,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = PeerLimitFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The peer of the next connection, and whether it has a free slot, is not known yet.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        match self.peers.enter(connection.peer().ip()) {
            Some(slot) => ResponseFuture::served(self.inner.call(connection), slot),
            None => ResponseFuture::refuse(&mut self.overflow, &self.peers.refusals, connection),
        }
    }
}

impl<S: fmt::Debug, P> fmt::Debug for PeerLimit<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerLimit")
            .field("inner", &self.inner)
            .field("max", &self.peers.max)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}
