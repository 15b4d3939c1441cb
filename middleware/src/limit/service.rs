use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use super::future::ResponseFuture;
use super::overflow::{Overflow, Wait, is_ready_now};
use super::slot::{ConnectionPlace, SlotWait};
use super::slots::{Cap, Slots};
use crate::Connection;

/// A service with a limit on its connections; made by
/// [`ConnectionLimitLayer`](super::ConnectionLimitLayer).
pub struct ConnectionLimit<S, P = Wait> {
    inner: S,
    slots: Arc<Slots>,
    overflow: P,
    /// The slot for the next call, reserved by this service's own `poll_ready`.
    slot: Option<OwnedSemaphorePermit>,
    waiting: Option<SlotWait>,
}

impl<S, P> ConnectionLimit<S, P> {
    pub(super) fn new(inner: S, slots: Arc<Slots>, overflow: P) -> Self {
        Self { inner, slots, overflow, slot: None, waiting: None }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, by value.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Reserves a slot of the count for all listeners, for the next call.
    fn poll_slot(&mut self, cap: &Arc<Cap>, cx: &mut Context<'_>) -> Poll<()> {
        while self.slot.is_none() {
            let waiting = match &mut self.waiting {
                Some(waiting) => waiting,
                None => match cap.try_take() {
                    Some(slot) => {
                        self.slot = Some(slot);
                        break;
                    }
                    None => self.waiting.insert(Box::pin(Arc::clone(&cap.permits).acquire_owned())),
                },
            };
            // It can't fail: the semaphore is never closed.
            self.slot = ready!(waiting.as_mut().poll(cx)).ok();
            self.waiting = None;
        }
        Poll::Ready(())
    }
}

impl<S: Service<Connection>, P> ConnectionLimit<S, P> {
    /// Whether another connection makes room for this one.
    fn makes_room(&mut self, cap: &Cap, newcomer: &Connection) -> bool {
        let Some(rules) = self.slots.rules() else { return false };
        is_ready_now(&mut self.inner) && cap.make_room(newcomer.peer(), &rules)
    }
}

impl<S, P> Service<Connection> for ConnectionLimit<S, P>
where
    S: Service<Connection, Response = ()>,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let slots = Arc::clone(&self.slots);
        match slots.shared() {
            Some(cap) if P::WAITS => {
                ready!(self.poll_slot(cap, cx));
                self.inner.poll_ready(cx)
            }
            // Refusals continue while the inner service is not ready: at the limit its readiness
            // doesn't matter.
            Some(cap) => match self.inner.poll_ready(cx) {
                Poll::Pending if cap.permits.available_permits() == 0 => Poll::Ready(Ok(())),
                polled => polled,
            },
            // The listener of the next connection, and whether it has a free slot, is not known
            // yet.
            None => self.inner.poll_ready(cx),
        }
    }

    /// Serves the connection, or refuses it.
    ///
    /// A limit that refuses decides here and not in `poll_ready`, because the accept loop calls
    /// that before it waits for a connection, and slots may be released in the meantime. So both
    /// are checked again: is a slot free, and is the inner service ready? It can be unready only if
    /// no slot was free when `poll_ready` ignored its readiness. If it is still unready, the
    /// connection is refused: it could only be kept if the next connection would resume it.
    fn call(&mut self, connection: Connection) -> Self::Future {
        let closing = connection.closing();
        let cap = self.slots.of(connection.listener());
        if let Some(slot) = self.slot.take() {
            let future = self.inner.call(connection);
            return ResponseFuture::served(future, ConnectionPlace::taken(cap, slot, &closing));
        }
        // A connection is added to those that may have to make room only after the inner service
        // was called.
        match cap.try_take() {
            Some(slot) if is_ready_now(&mut self.inner) => {
                let future = self.inner.call(connection);
                ResponseFuture::served(future, ConnectionPlace::taken(cap, slot, &closing))
            }
            None if self.makes_room(&cap, &connection) => {
                let future = self.inner.call(connection);
                ResponseFuture::served(future, ConnectionPlace::coming(cap, &closing))
            }
            _ => ResponseFuture::refuse(&mut self.overflow, &self.slots.refusals, connection),
        }
    }
}

impl<S: Clone, P: Clone> Clone for ConnectionLimit<S, P> {
    /// Another service under the same limit. It has no slot yet: readiness is not cloned.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.slots), self.overflow.clone())
    }
}

impl<S: fmt::Debug, P> fmt::Debug for ConnectionLimit<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionLimit")
            .field("inner", &self.inner)
            .field("max", &self.slots.max)
            .field("active", &self.slots.active())
            .finish_non_exhaustive()
    }
}
