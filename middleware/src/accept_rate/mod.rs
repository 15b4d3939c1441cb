//! How many connections may be opened in a time: [`AcceptRateLayer`].

mod buckets;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

use self::buckets::Buckets;
pub use self::buckets::Rate;
use crate::limit::{MAX_REFUSALS, Overflow, RefuseBy, RefuseWith, ResponseFuture, Unlimited};
use crate::{CloseReason, Connection};

/// Limits how many connections a peer, and all peers together, may open in a time.
///
/// Each peer has a bucket of tokens, full at first, that fills at its rate; all peers share a
/// second one. A connection takes a token of its peer's bucket and then one of the shared bucket.
/// Without both tokens it is refused, and takes neither: a peer over its own rate uses nothing of
/// the shared rate. A peer is an IPv4 address or the first 64 bits of an IPv6 address; peers
/// without an address (Unix sockets, memory) have the shared rate only.
///
/// A refused connection ends with [`CloseReason::AcceptRate`]. It is closed silently or with a
/// [text](Self::refuse_with), or [another service](Self::refuse_by) answers it; refusals under way
/// are limited as in a [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
///
/// The layer remembers a peer until its bucket is full again, and at most
/// [`MAX_PEERS`](Self::MAX_PEERS) peers, some 40 bytes each. Beyond that, further peers are under
/// the shared rate only, and [`untracked`](Self::untracked) counts their connections. The layer and
/// its clones share the buckets. A connection costs one reading of the clock and a lock; a frame
/// costs nothing.
///
/// It goes around connections only. Under the PROXY protocol the peer is the client, not the proxy.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::accept_rate::{AcceptRateLayer, Rate};
///
/// let second = Duration::from_secs(1);
/// let rate = AcceptRateLayer::new()
///     .per_peer(Rate::new(5, second).burst(20))
///     .of_all(Rate::new(1000, second))
///     .refuse_with("Too fast, try later\r\n");
/// assert_eq!(rate.untracked(), 0);
/// ```
#[derive(Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct AcceptRateLayer<P = RefuseWith> {
    shared: Arc<RateState>,
    refusal: P,
}

#[derive(Debug)]
struct RateState {
    buckets: Buckets,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

impl RateState {
    fn new(peer: Option<Rate>, all: Option<Rate>) -> Arc<Self> {
        let buckets = Buckets::new(peer, all, AcceptRateLayer::MAX_PEERS);
        Arc::new(Self { buckets, refusals: Arc::new(Semaphore::new(MAX_REFUSALS)) })
    }
}

impl AcceptRateLayer {
    /// The most peers remembered at once.
    pub const MAX_PEERS: usize = 65_536;

    /// A layer without a rate: [`per_peer`](Self::per_peer) and [`of_all`](Self::of_all) set the
    /// rates.
    pub fn new() -> Self {
        Self { shared: RateState::new(None, None), refusal: RefuseWith(Bytes::new()) }
    }
}

impl Default for AcceptRateLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> AcceptRateLayer<P> {
    /// Sets the rate of each peer. The buckets start full again, and earlier clones keep their own.
    pub fn per_peer(self, rate: Rate) -> Self {
        Self { shared: RateState::new(Some(rate), self.shared.buckets.all), refusal: self.refusal }
    }

    /// Sets the rate of all peers together. The buckets start full again, and earlier clones keep
    /// their own.
    pub fn of_all(self, rate: Rate) -> Self {
        Self { shared: RateState::new(self.shared.buckets.peer, Some(rate)), refusal: self.refusal }
    }

    /// Refused connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> AcceptRateLayer<RefuseWith> {
        AcceptRateLayer { shared: self.shared, refusal: RefuseWith(text.into()) }
    }

    /// Refused connections are served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> AcceptRateLayer<RefuseBy<R>> {
        AcceptRateLayer { shared: self.shared, refusal: RefuseBy(service) }
    }

    /// How many connections were accepted under the shared rate only, because the table of peers
    /// was full.
    pub fn untracked(&self) -> u64 {
        self.shared.buckets.untracked()
    }

    /// How many peers are remembered at this moment.
    pub fn peers(&self) -> usize {
        self.shared.buckets.len()
    }
}

impl<P: Clone> Clone for AcceptRateLayer<P> {
    /// Another handle on the same buckets.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), refusal: self.refusal.clone() }
    }
}

impl<S, P: Clone> Layer<S> for AcceptRateLayer<P> {
    type Service = AcceptRate<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        AcceptRate { inner, layer: self.clone() }
    }
}

/// A service whose connections are limited to a rate; made by [`AcceptRateLayer`].
#[derive(Clone)]
pub struct AcceptRate<S, P = RefuseWith> {
    inner: S,
    layer: AcceptRateLayer<P>,
}

impl<S, P> AcceptRate<S, P> {
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

/// A connection that is served, or refused because it exceeds the rate.
pub type AcceptRateFuture<F, R> = ResponseFuture<F, R, Unlimited>;

impl<S, P> Service<Connection> for AcceptRate<S, P>
where
    S: Service<Connection, Response = ()>,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = AcceptRateFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The peer of the next connection is not known yet.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        if self.layer.shared.buckets.take(connection.peer().host()) {
            return ResponseFuture::served(self.inner.call(connection), Unlimited::default());
        }
        connection.closing().set_reason(CloseReason::AcceptRate);
        ResponseFuture::refuse(&mut self.layer.refusal, &self.layer.shared.refusals, connection)
    }
}

impl<S: fmt::Debug, P> fmt::Debug for AcceptRate<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptRate")
            .field("inner", &self.inner)
            .field("buckets", &self.layer.shared.buckets)
            .finish_non_exhaustive()
    }
}
