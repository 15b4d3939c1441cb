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

/// Limits how many connections each peer may have open at once, as Twisted's `LimitConnectionsByPeer` does.
///
/// A peer is an IPv4 address, or the first 64 bits of an IPv6 address. Peers without an address, on Unix sockets and in
/// the process, are not counted. A layer value and its clones share the counts, over all endpoints.
///
/// At the limit a connection is refused: silently, with a [text](Self::refuse_with), or by [another
/// service](Self::refuse_by), with the same reasons and the same limit on refusals under way as in a
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer). It can't leave connections in the backlog, because a
/// connection's peer is known only after it was accepted.
///
/// Many users may share an address, behind a NAT or a proxy: choose a limit that does not hurt them. With the PROXY
/// protocol the address is the one in the header. If the header has no address (`UNKNOWN`, `LOCAL`), that of the socket
/// counts, which is the proxy's: all such connections (mostly health checks) share one limit.
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
    /// At most `max` connections of one peer at once; the others are closed silently. With 0 every connection of a peer
    /// with an address is refused.
    pub fn new(max: usize) -> Self {
        Self { peers: Peers::new(max), overflow: RefuseWith(Bytes::new()) }
    }
}

impl<P> PeerLimitLayer<P> {
    /// At the limit, connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> PeerLimitLayer<RefuseWith> {
        PeerLimitLayer { peers: self.peers, overflow: RefuseWith(text.into()) }
    }

    /// At the limit, connections are served by `service`: see
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
