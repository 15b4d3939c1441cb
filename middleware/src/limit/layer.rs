use std::sync::Arc;

use bytes::Bytes;
use tower_layer::Layer;

use super::overflow::{RefuseBy, RefuseWith, Refuses, Wait};
use super::service::ConnectionLimit;
use super::slots::Slots;
use crate::MakeRoom;

/// Limits how many connections are open at once, exactly.
///
/// A layer value and its clones share one count, and so do all services made from them. These methods choose what
/// happens at the limit:
///
/// * [`wait`](Self::wait), the default: connections stay in the backlog until a slot is free;
/// * [`refuse_with`](ConnectionLimitLayer::refuse_with): they get a text and are closed;
/// * [`refuse_by`](ConnectionLimitLayer::refuse_by): another service answers them.
///
/// A slot is taken before the inner service is called, and released when its future is done or dropped: at the end,
/// after an error, after a panic, when the connection is cancelled.
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
    /// At most `max` connections at once; the others wait in the backlog. With 0 no connection is accepted.
    pub fn new(max: usize) -> Self {
        Self { slots: Arc::new(Slots::total(max, None)), overflow: Wait(()) }
    }
}

impl<P> ConnectionLimitLayer<P> {
    /// At the limit, connections are not accepted until a slot is free. The default.
    ///
    /// The service is not ready then: the accept loop waits, and the connections stay in the kernel's backlog. The slot
    /// is reserved when the service becomes ready, so an accept loop that waits for its next connection holds a slot:
    /// two accept loops under one layer hold two.
    ///
    /// So `max` has to be more than the number of accept loops that share the layer. Otherwise a loop to which no
    /// connection comes holds a slot and keeps the others, which have connections waiting, from accepting them.
    ///
    /// There is one count for all listeners then, even after [`per_listener`](Self::per_listener), and no connection
    /// makes room, even after [`make_room`](Self::make_room).
    pub fn wait(self) -> ConnectionLimitLayer {
        let slots = match self.slots.shared() {
            Some(_) if self.slots.rules().is_none() => self.slots,
            _ => Arc::new(Slots::total(self.slots.max, None)),
        };
        ConnectionLimitLayer { slots, overflow: Wait(()) }
    }

    /// At the limit, connections get this text and are closed by a [`LingeringClose`](crate::LingeringClose), so that
    /// the text arrives. The call succeeds, with reason [`Refused`].
    ///
    /// A peer has 2 s to accept the text. At most [`MAX_REFUSALS`](crate::limit::MAX_REFUSALS) refusals are under way
    /// at once; beyond that one write of the text is tried, without waiting, and the connection is dropped, with reason
    /// [`RefusedAtOnce`].
    ///
    /// A refusal never waits for the inner service. So a connection is also refused if the inner service is not ready
    /// when it arrives, provided that no slot was free when the accept loop last asked.
    ///
    /// [`Refused`]: crate::CloseReason::Refused
    /// [`RefusedAtOnce`]: crate::CloseReason::RefusedAtOnce
    pub fn refuse_with(self, text: impl Into<Bytes>) -> ConnectionLimitLayer<RefuseWith> {
        self.overflow(RefuseWith(text.into()))
    }

    /// At the limit, connections are served by `service`: a `Service<Connection>` with the error type of the inner
    /// service. The reason is [`Refused`].
    ///
    /// It serves at most [`MAX_REFUSALS`](crate::limit::MAX_REFUSALS) connections at once; beyond that, or while it is
    /// not ready, a connection is dropped silently, with reason [`RefusedAtOnce`]. It has 10 s for each
    /// ([`MAX_REFUSAL_TIME`](crate::limit::MAX_REFUSAL_TIME)), including the close; then the connection is dropped, and
    /// the call has succeeded.
    ///
    /// [`Refused`]: crate::CloseReason::Refused
    /// [`RefusedAtOnce`]: crate::CloseReason::RefusedAtOnce
    pub fn refuse_by<R>(self, service: R) -> ConnectionLimitLayer<RefuseBy<R>> {
        self.overflow(RefuseBy(service))
    }

    /// Counts each of the server's endpoints separately: `max` for every [`listener`](crate::Connection::listener).
    ///
    /// It starts new counts: call it before the layer is cloned. It is for limits that refuse, so it comes after
    /// [`refuse_with`](Self::refuse_with) or [`refuse_by`](Self::refuse_by). A limit per listener can't wait: the
    /// endpoint of the next connection is not known beforehand, so no connection can be left in the backlog because of
    /// its endpoint alone, and parking accepted connections would let one endpoint fill the server. If each endpoint
    /// has to wait separately, run a server for each in one process, each with its limit.
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
        Self { slots: Arc::new(Slots::per_listener(self.slots.max, self.slots.rules())), overflow: self.overflow }
    }

    /// At the limit, a connection is aborted to make room for a new one, if one of these rules finds any; otherwise the
    /// new one is refused. So silent and idle peers, and those of one address, can't keep the others out. The limit
    /// stays exact: the new connection is served when the other one is gone.
    ///
    /// It starts new counts: call it before the layer is cloned. It is for limits that refuse, so it comes after
    /// [`refuse_with`](Self::refuse_with) or [`refuse_by`](Self::refuse_by). The inner service is called when the
    /// connection arrives, and its future is polled when a slot is free. Each connection costs such a limit some 200
    /// bytes, and a few steps in a tree when it opens and closes.
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

    /// How many slots are taken at this moment, including a slot reserved by a waiting accept loop. Per listener: the
    /// sum.
    pub fn active(&self) -> usize {
        self.slots.active()
    }

    /// How many slots are free at this moment. Per listener: of the listener with the fewest.
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
