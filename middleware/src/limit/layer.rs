use std::sync::Arc;

use bytes::Bytes;
use tower_layer::Layer;

use super::overflow::{RefuseBy, RefuseWith, Refuses, Wait};
use super::places::Places;
use super::service::ConnectionLimit;
use crate::MakeRoom;

/// Caps how many connections are open at once, exactly.
///
/// The layer is what is shared: a layer value and its clones count together, and so do all services made from them.
/// What happens over the cap is chosen by
///
/// * [`wait`](Self::wait), the default: connections stay in the backlog until there is room;
/// * [`refuse_with`](ConnectionLimitLayer::refuse_with): they are told so with a text;
/// * [`refuse_by`](ConnectionLimitLayer::refuse_by): another service has them.
///
/// A place is taken before the service behind is called, and given back when its future is done or dropped: at the
/// end, after an error, after a panic, when the connection is cancelled.
///
/// It goes around connections only; frames have no such limit to pass.
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
    places: Arc<Places>,
    overflow: P,
}

impl<P: Clone> Clone for ConnectionLimitLayer<P> {
    /// Another handle on the same count.
    fn clone(&self) -> Self {
        Self { places: Arc::clone(&self.places), overflow: self.overflow.clone() }
    }
}

impl ConnectionLimitLayer {
    /// At most `max` connections at once; the others wait in the backlog. With 0 no connection is let in.
    pub fn new(max: usize) -> Self {
        Self { places: Arc::new(Places::total(max, None)), overflow: Wait(()) }
    }
}

impl<P> ConnectionLimitLayer<P> {
    /// Over the cap, connections are not accepted until there is room. The default.
    ///
    /// The service is not ready then: the accept loop stands still, and the connections stay in the kernel's backlog.
    /// The place is reserved when the service becomes ready, so an accept loop that waits for its next connection has
    /// one: two accept loops under one layer hold two.
    ///
    /// So `max` has to be more than the number of accept loops that share the layer. Otherwise one that waits for a
    /// connection which does not come keeps the others, whose connections are there, from accepting any.
    ///
    /// There is one count for all listeners then, even after [`per_listener`](Self::per_listener), and nobody makes
    /// room, even after [`make_room`](Self::make_room).
    pub fn wait(self) -> ConnectionLimitLayer {
        let places = match self.places.shared() {
            Some(_) if self.places.rules().is_none() => self.places,
            _ => Arc::new(Places::total(self.places.max, None)),
        };
        ConnectionLimitLayer { places, overflow: Wait(()) }
    }

    /// Over the cap, connections get this text, then an end, and are read out for a moment so that it arrives: see
    /// [`LingeringClose`](crate::LingeringClose). The call succeeds, with reason [`Refused`].
    ///
    /// A peer has 2 s to take the text. At most [`MAX_REFUSALS`](crate::limit::MAX_REFUSALS) are under way at once;
    /// beyond that the text is tried once, without waiting, and the connection is dropped, with reason
    /// [`RefusedAtOnce`].
    ///
    /// A refusal never waits for the service behind. So a connection that comes while that is not ready is refused
    /// too, if there was no room when the accept loop last asked.
    ///
    /// [`Refused`]: crate::CloseReason::Refused
    /// [`RefusedAtOnce`]: crate::CloseReason::RefusedAtOnce
    pub fn refuse_with(self, text: impl Into<Bytes>) -> ConnectionLimitLayer<RefuseWith> {
        self.overflow(RefuseWith(text.into()))
    }

    /// Over the cap, connections are served by `service`: a whole `Service<Connection>` with the error type of the one
    /// behind. The reason is [`Refused`].
    ///
    /// At most [`MAX_REFUSALS`](crate::limit::MAX_REFUSALS) are with it at once; beyond that, or while it is not ready,
    /// a connection is dropped without a word, with reason [`RefusedAtOnce`]. It has 10 s for one
    /// ([`MAX_REFUSAL_TIME`](crate::limit::MAX_REFUSAL_TIME)), its close included; then the connection is dropped, and
    /// the call has succeeded.
    ///
    /// [`Refused`]: crate::CloseReason::Refused
    /// [`RefusedAtOnce`]: crate::CloseReason::RefusedAtOnce
    pub fn refuse_by<R>(self, service: R) -> ConnectionLimitLayer<RefuseBy<R>> {
        self.overflow(RefuseBy(service))
    }

    /// Counts each of the server's endpoints by itself: `max` for every [`listener`](crate::Connection::listener).
    ///
    /// It starts counts of its own: choose this before the layer is cloned. It is for limits that refuse, so it comes
    /// after [`refuse_with`](Self::refuse_with) or [`refuse_by`](Self::refuse_by). To wait is not possible per
    /// listener: it is not known beforehand on which endpoint the next connection comes in, so no connection can be
    /// left in the backlog because of its endpoint alone, and to accept and park it would let one endpoint fill up the
    /// server. Where each endpoint is to wait by itself, run a server for each in one process, with a limit of its own.
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
        Self { places: Arc::new(Places::per_listener(self.places.max, self.places.rules())), overflow: self.overflow }
    }

    /// Over the cap, a connection is aborted for one that comes, if one of these rules finds one; otherwise the one
    /// that comes is refused. So silent and idle peers, and those of one address, can't keep the others out. The cap
    /// stays exact: the new connection is served when the other one is gone.
    ///
    /// It starts counts of its own: choose this before the layer is cloned. It is for limits that refuse, so it comes
    /// after [`refuse_with`](Self::refuse_with) or [`refuse_by`](Self::refuse_by). The service behind is called when
    /// the connection comes, and its future polled when there is room. A connection under such a limit costs it some
    /// 200 bytes, and a few steps in a tree when it comes and goes.
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
        Self { places: Arc::new(self.places.with_rules(rules.into())), overflow: self.overflow }
    }

    /// How many places are taken at this moment, a place reserved by a waiting accept loop included. Per listener: the
    /// sum.
    pub fn active(&self) -> usize {
        self.places.active()
    }

    /// How many places are free at this moment. Per listener: on the fullest.
    pub fn available(&self) -> usize {
        self.places.available()
    }

    /// The cap.
    pub fn max(&self) -> usize {
        self.places.max
    }

    fn overflow<Q>(self, overflow: Q) -> ConnectionLimitLayer<Q> {
        ConnectionLimitLayer { places: self.places, overflow }
    }
}

impl<S, P: Clone> Layer<S> for ConnectionLimitLayer<P> {
    type Service = ConnectionLimit<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ConnectionLimit::new(inner, Arc::clone(&self.places), self.overflow.clone())
    }
}
