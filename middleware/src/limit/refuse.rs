use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::future::ResponseFuture;
use super::overflow::{Farewell, RefuseWith};
use super::slot::Unlimited;
use super::slots::MAX_REFUSALS;
use crate::Connection;

/// Refuses connections in the same way as the layers of this crate do; for layers of your own.
///
/// The peer gets a text and then a lingering close, so that the text arrives. At most
/// [`MAX_REFUSALS`] refusals are under way at once, of this value and its clones; beyond that, one
/// write is tried and the connection is closed at once. So slow peers, however many, can't hold up
/// a server that refuses.
///
/// ```
/// use std::task::{Context, Poll};
/// use ropewalk_middleware::{Connection, Refuse};
/// use ropewalk_middleware::limit::MaybeRefused;
/// use tower::Service;
///
/// /// Serves only peers that are on this machine.
/// struct Local<S> {
///     inner: S,
///     // Made by the layer, with `Refuse::with("go away\r\n")`.
///     refuse: Refuse,
/// }
///
/// impl<S: Service<Connection, Response = ()>> Service<Connection> for Local<S> {
///     type Response = ();
///     type Error = S::Error;
///     type Future = MaybeRefused<S::Future, S::Error>;
///
///     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
///         self.inner.poll_ready(cx)
///     }
///
///     fn call(&mut self, connection: Connection) -> Self::Future {
///         match connection.peer().ip() {
///             Some(ip) if !ip.is_loopback() => self.refuse.refuse(connection),
///             _ => self.refuse.serve(self.inner.call(connection)),
///         }
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Refuse {
    text: RefuseWith,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

/// A connection that is served, or refused by a [`Refuse`].
pub type MaybeRefused<F, E> = ResponseFuture<F, Farewell<E>, Unlimited>;

impl Refuse {
    /// Refused peers get this text; with an empty one the connection is closed silently.
    pub fn with(text: impl Into<Bytes>) -> Self {
        Self { text: RefuseWith(text.into()), refusals: Arc::new(Semaphore::new(MAX_REFUSALS)) }
    }

    /// Refuses a connection. Its reason is [`Refused`](crate::CloseReason::Refused), or
    /// [`RefusedAtOnce`](crate::CloseReason::RefusedAtOnce) when too many refusals are under way,
    /// unless `connection.closing().set_reason(…)` was called before.
    pub fn refuse<F, E>(&self, connection: Connection) -> MaybeRefused<F, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        ResponseFuture::refuse(&mut self.text.clone(), &self.refusals, connection)
    }

    /// Wraps the future of a served connection in the same type.
    pub fn serve<F, E>(&self, served: F) -> MaybeRefused<F, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        ResponseFuture::served(served, Unlimited::default())
    }
}

impl fmt::Debug for Refuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refuse").field("text", &self.text).finish_non_exhaustive()
    }
}
