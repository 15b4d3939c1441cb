use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use super::future::ResponseFuture;
use super::overflow::{Overflow, Wait, is_ready_now};
use super::place::{ConnectionPlace, Waiting};
use super::places::{Cap, Places};
use crate::Connection;

/// A service behind a cap on its connections; made by [`ConnectionLimitLayer`](super::ConnectionLimitLayer).
pub struct ConnectionLimit<S, P = Wait> {
    inner: S,
    places: Arc<Places>,
    overflow: P,
    /// The place for the next call: reserved by `poll_ready`, and by nobody else's.
    place: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
}

impl<S, P> ConnectionLimit<S, P> {
    pub(super) fn new(inner: S, places: Arc<Places>, overflow: P) -> Self {
        Self { inner, places, overflow, place: None, waiting: None }
    }

    /// The service behind the cap.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the cap, without it.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Reserves a place among all listeners' for the next call.
    fn poll_place(&mut self, cap: &Arc<Cap>, cx: &mut Context<'_>) -> Poll<()> {
        while self.place.is_none() {
            let waiting = match &mut self.waiting {
                Some(waiting) => waiting,
                None => match cap.try_take() {
                    Some(place) => {
                        self.place = Some(place);
                        break;
                    }
                    None => self.waiting.insert(Box::pin(Arc::clone(&cap.permits).acquire_owned())),
                },
            };
            // It can't fail: the semaphore is never closed.
            self.place = ready!(waiting.as_mut().poll(cx)).ok();
            self.waiting = None;
        }
        Poll::Ready(())
    }
}

impl<S: Service<Connection>, P> ConnectionLimit<S, P> {
    /// Whether another connection makes room for this one.
    fn makes_room(&mut self, cap: &Cap, newcomer: &Connection) -> bool {
        let Some(rules) = self.places.rules() else { return false };
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
        let places = Arc::clone(&self.places);
        match places.shared() {
            Some(cap) if P::WAITS => {
                ready!(self.poll_place(cap, cx));
                self.inner.poll_ready(cx)
            }
            // Refusals go on while the service behind is busy: at the cap it is not asked to take part.
            Some(cap) => match self.inner.poll_ready(cx) {
                Poll::Pending if cap.permits.available_permits() == 0 => Poll::Ready(Ok(())),
                polled => polled,
            },
            // Where the next connection comes in, and whether there is room, is not known yet.
            None => self.inner.poll_ready(cx),
        }
    }

    /// Serves the connection, or refuses it.
    ///
    /// When refusing, which of the two is decided here and not in `poll_ready`: the accept loop asks first and waits for
    /// a connection afterwards, and in the meantime places are given back. So both are looked at afresh: is there a
    /// place, and is the service behind ready? The second can be in doubt only if there was no place when `poll_ready`
    /// passed over a busy service; if it is busy still, the connection is refused after all. To keep it would mean to
    /// park it where only the next connection finds it.
    fn call(&mut self, connection: Connection) -> Self::Future {
        let (closing, cap) = (connection.closing(), self.places.of(connection.listener()));
        if let Some(place) = self.place.take() {
            let future = self.inner.call(connection);
            return ResponseFuture::served(future, ConnectionPlace::taken(cap, place, &closing));
        }
        // Only after the service behind was called does a connection stand among those that may have to make room.
        match cap.try_take() {
            Some(place) if is_ready_now(&mut self.inner) => {
                let future = self.inner.call(connection);
                ResponseFuture::served(future, ConnectionPlace::taken(cap, place, &closing))
            }
            None if self.makes_room(&cap, &connection) => {
                let future = self.inner.call(connection);
                ResponseFuture::served(future, ConnectionPlace::coming(cap, &closing))
            }
            _ => ResponseFuture::refuse(&mut self.overflow, &self.places.refusals, connection),
        }
    }
}

impl<S: Clone, P: Clone> Clone for ConnectionLimit<S, P> {
    /// Another service under the same cap. It has no place yet: readiness is not cloned.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.places), self.overflow.clone())
    }
}

impl<S: fmt::Debug, P> fmt::Debug for ConnectionLimit<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionLimit")
            .field("inner", &self.inner)
            .field("max", &self.places.max)
            .field("active", &self.places.active())
            .finish_non_exhaustive()
    }
}
