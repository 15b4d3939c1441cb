//! The connection as it is when its service is made.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use ropewalk_middleware::{BoxError, ConnectionInfo};
use tokio_util::codec::Encoder;
use tower_layer::Layer;

use crate::outbox::{Capacity, Inbox, Outbox, SlowConsumer};

/// A connection that begins, as the function given to [`per_connection`](crate::per_connection)
/// receives it. It dereferences to its [`ConnectionInfo`].
///
/// `C` is the codec.
pub struct Opened<C> {
    info: ConnectionInfo,
    inbox: RefCell<Inbox<C>>,
}

impl<C> Opened<C> {
    pub(super) fn new(info: ConnectionInfo) -> Self {
        Self { info, inbox: RefCell::default() }
    }

    pub(super) fn into_inbox(self) -> Inbox<C> {
        self.inbox.into_inner()
    }

    /// A handle on the connection, which the service can keep.
    pub fn info(&self) -> ConnectionInfo {
        self.info.clone()
    }

    /// Makes an outbox of this connection. Frames pushed to it are written between complete
    /// answers, also while calls are pending.
    ///
    /// ```
    /// use ropewalk::{Bytes, Lines, Reply, Room, SlowConsumer, per_connection, reply_fn};
    ///
    /// let room = Room::new();
    /// per_connection(Lines::lf(), move |connection| {
    ///     let me = room.join(connection.outbox(256, SlowConsumer::Disconnect));
    ///     reply_fn(move |line: Bytes| {
    ///         room.push_except(me.id(), line);
    ///         Reply::<Bytes>::none()
    ///     })
    /// });
    /// ```
    pub fn outbox<F>(&self, capacity: impl Into<Capacity<F>>, slow: SlowConsumer) -> Outbox<F>
    where
        C: Encoder<F, Error: Into<BoxError>>,
        F: Send + 'static,
    {
        self.inbox.borrow_mut().open(self.info(), capacity.into(), slow)
    }

    /// Makes an outbox of bytes that bypass the codec: see
    /// [`Session::outbox_raw`](crate::Session::outbox_raw).
    pub fn outbox_raw(
        &self,
        capacity: impl Into<Capacity<Bytes>>,
        slow: SlowConsumer,
    ) -> Outbox<Bytes> {
        self.inbox.borrow_mut().open_raw(self.info(), capacity.into(), slow)
    }
}

impl<C> Deref for Opened<C> {
    type Target = ConnectionInfo;

    fn deref(&self) -> &ConnectionInfo {
        &self.info
    }
}

impl<C> fmt::Debug for Opened<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Makes the service of one connection whose codec is a `C`.
pub trait MakeFrameService<C> {
    /// The service.
    type Service;

    /// Makes the service. Called in the connection's own task.
    fn make(self, connection: &Opened<C>) -> Self::Service;
}

/// Gives each connection a clone of one service.
#[derive(Clone, Copy, Debug)]
pub struct Cloned<S>(S);

impl<S> Cloned<S> {
    pub(super) fn new(service: S) -> Self {
        Self(service)
    }
}

impl<C, S> MakeFrameService<C> for Cloned<S> {
    type Service = S;

    fn make(self, _: &Opened<C>) -> S {
        self.0
    }
}

/// Makes a separate service for each connection, with a function.
#[derive(Clone, Copy)]
pub struct PerPeer<F>(F);

impl<F> PerPeer<F> {
    pub(super) fn new(make: F) -> Self {
        Self(make)
    }
}

impl<C, F, S> MakeFrameService<C> for PerPeer<F>
where
    F: FnOnce(&Opened<C>) -> S,
{
    type Service = S;

    fn make(self, connection: &Opened<C>) -> S {
        (self.0)(connection)
    }
}

impl<F> fmt::Debug for PerPeer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerPeer").finish_non_exhaustive()
    }
}

/// Puts a layer that is made for the connection around the service of another maker.
#[derive(Clone, Copy)]
pub struct LayerWith<M, F> {
    make: M,
    layer: F,
}

impl<M, F> LayerWith<M, F> {
    pub(super) fn new(make: M, layer: F) -> Self {
        Self { make, layer }
    }
}

impl<C, M, F, L> MakeFrameService<C> for LayerWith<M, F>
where
    M: MakeFrameService<C>,
    F: FnOnce(&ConnectionInfo) -> L,
    L: Layer<M::Service>,
{
    type Service = L::Service;

    fn make(self, connection: &Opened<C>) -> L::Service {
        let layer = (self.layer)(connection);
        layer.layer(self.make.make(connection))
    }
}

impl<M, F> fmt::Debug for LayerWith<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerWith").finish_non_exhaustive()
    }
}
