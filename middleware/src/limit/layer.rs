use std::sync::Arc;

use bytes::Bytes;
use tower_layer::Layer;

use super::overflow::{RefuseBy, RefuseWith, Refuses, Wait};
use super::service::ConnectionLimit;
use super::slots::Slots;
use crate::MakeRoom;

/// Limits how many connections are open at once, exactly.
///
/// A layer, its clones and all services made from them share one count. When all slots are taken,
/// further connections
///
/// * stay in the backlog until a slot is free: [`wait`](Self::wait), the default;
/// * receive a text and are closed: [`refuse_with`](ConnectionLimitLayer::refuse_with);
/// * are served by another service: [`refuse_by`](ConnectionLimitLayer::refuse_by).
///
/// A connection takes its slot before the inner service is called, and frees it when the future of
/// that call has completed or was dropped: also after an error, a panic or an abort.
///
/// It goes around connections only; [`CallLimitLayer`](crate::CallLimitLayer) limits calls.
///
/// ```
/// use ropewalk_middleware::ConnectionLimitLayer;
///
/// let limit = ConnectionLimitLayer::new(100).refuse_with("Too many connections, try later\r\n");
/// assert_eq!((limit.active(), limit.available()), (0, 100));
/// ```
#[derive(Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct ConnectionLimitLayer<P = Wait> {
    slots: Arc<Slots>,
    overflow: P,
}

impl<P: Clone> Clone for ConnectionLimitLayer<P> {
    /// Another handle on the same count.
    fn clone(&self) -> Self {
        Self { slots: Arc::clone(&self.slots), overflow: self.overflow.clone() }
    }
}

impl ConnectionLimitLayer {
    /// At most `max` connections at once; the others wait in the backlog. With 0 there is no slot
    /// for any connection.
    pub fn new(max: usize) -> Self {
        Self { slots: Arc::new(Slots::total(max, None)), overflow: Wait(()) }
    }
}

impl<P> ConnectionLimitLayer<P> {
    /// While all slots are taken, no connection is accepted. The default.
    ///
    /// The service is not ready then: the accept loop stands still, and connections stay in the
    /// kernel's backlog. A slot is reserved when the service becomes ready, so each accept loop
    /// that waits for a connection holds one.
    ///
    /// Therefore `max` must be greater than the number of accept loops that share the layer.
    /// Otherwise a loop for which no connection arrives may hold the last slot, and the other loops
    /// accept nothing.
    ///
    /// This turns [`per_listener`](Self::per_listener) and [`make_room`](Self::make_room) off
    /// again.
    pub fn wait(self) -> ConnectionLimitLayer {
        let slots = match self.slots.shared() {
            Some(_) if self.slots.rules().is_none() => self.slots,
            _ => Arc::new(Slots::total(self.slots.max, None)),
        };
        ConnectionLimitLayer { slots, overflow: Wait(()) }
    }

    /// While all slots are taken, a connection receives this text and is closed, by a
    /// [`LingeringClose`](crate::LingeringClose), so that the text arrives. The call succeeds, and
    /// the close reason is [`Refused`].
    ///
    /// A peer has 2 s to accept the text. At most [`MAX_REFUSALS`](crate::limit::MAX_REFUSALS) are
    /// under way at once; beyond that one write is tried, which waits for nothing, and the
    /// connection is dropped with the reason [`RefusedAtOnce`].
    ///
    /// A refusal never waits for the inner service. So while that is not ready, a connection is
    /// refused if no slot was free when the accept loop last asked.
    ///
    /// [`Refused`]: crate::CloseReason::Refused
    /// [`RefusedAtOnce`]: crate::CloseReason::RefusedAtOnce
    pub fn refuse_with(self, text: impl Into<Bytes>) -> ConnectionLimitLayer<RefuseWith> {
        self.overflow(RefuseWith(text.into()))
    }

    /// While all slots are taken, a connection is served by `service`: any `Service<Connection>`
    /// with the error type of the inner one. The close reason is [`Refused`].
    ///
    /// It serves at most [`MAX_REFUSALS`](crate::limit::MAX_REFUSALS) at once; beyond that, or
    /// while it is not ready, a connection is dropped without a text, with the reason
    /// [`RefusedAtOnce`]. It has 10 s for each
    /// ([`MAX_REFUSAL_TIME`](crate::limit::MAX_REFUSAL_TIME)), including the close; then the
    /// connection is dropped, and the call succeeds.
    ///
    /// [`Refused`]: crate::CloseReason::Refused
    /// [`RefusedAtOnce`]: crate::CloseReason::RefusedAtOnce
    pub fn refuse_by<R>(self, service: R) -> ConnectionLimitLayer<RefuseBy<R>> {
        self.overflow(RefuseBy(service))
    }

    /// Gives each endpoint of the server a count of its own: `max` for every
    /// [`listener`](crate::Connection::listener).
    ///
    /// Call it after [`refuse_with`](Self::refuse_with) or [`refuse_by`](Self::refuse_by), and
    /// before the layer is cloned, because it begins new counts. It doesn't exist for limits that
    /// wait: the endpoint of the next connection is known only once it is accepted, so it can't be
    /// left in the backlog because of its endpoint. If each endpoint has to wait by itself, run one
    /// server for each, with a limit of its own.
    ///
    /// ```
    /// use ropewalk_middleware::ConnectionLimitLayer;
    ///
    /// let each = ConnectionLimitLayer::new(100).refuse_with("Too many connections\r\n").per_listener();
    /// ```
    pub fn per_listener(self) -> Self
    where
        P: Refuses,
    {
        Self {
            slots: Arc::new(Slots::per_listener(self.slots.max, self.slots.rules())),
            overflow: self.overflow,
        }
    }

    /// While all slots are taken, a new connection causes an open one to be aborted if one of these
    /// rules finds one; otherwise the new one is refused. So silent and idle peers, and many
    /// connections of one address, can't shut others out. The limit stays exact: the new connection
    /// is served when the aborted one is gone.
    ///
    /// Call it after [`refuse_with`](Self::refuse_with) or [`refuse_by`](Self::refuse_by), and
    /// before the layer is cloned, because it begins new counts. The inner service is called when
    /// the connection arrives, and its future is polled once it has a slot. Each connection takes
    /// some 200 bytes, and a few steps in a tree when it opens and when it ends.
    ///
    /// ```
    /// use ropewalk_middleware::{ConnectionLimitLayer, MakeRoom};
    ///
    /// let limit = ConnectionLimitLayer::new(1000).refuse_with("Too many connections\r\n").make_room(MakeRoom::new());
    /// ```
    pub fn make_room(self, rules: impl Into<Option<MakeRoom>>) -> Self
    where
        P: Refuses,
    {
        Self { slots: Arc::new(self.slots.with_rules(rules.into())), overflow: self.overflow }
    }

    /// How many slots are taken now, including those reserved by accept loops that wait; after
    /// [`per_listener`](Self::per_listener) the sum over all endpoints.
    pub fn active(&self) -> usize {
        self.slots.active()
    }

    /// How many slots are free now; after [`per_listener`](Self::per_listener) those of the fullest
    /// endpoint.
    pub fn available(&self) -> usize {
        self.slots.available()
    }

    /// The limit.
    pub fn max(&self) -> usize {
        self.slots.max
    }

    fn overflow<Q>(self, overflow: Q) -> ConnectionLimitLayer<Q> {
        ConnectionLimitLayer { slots: self.slots, overflow }
    }
}

impl<S, P: Clone> Layer<S> for ConnectionLimitLayer<P> {
    type Service = ConnectionLimit<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ConnectionLimit::new(inner, Arc::clone(&self.slots), self.overflow.clone())
    }
}
