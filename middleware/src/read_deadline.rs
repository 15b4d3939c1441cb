//! How long the peers of a server are waited for.

use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use crate::{Connection, ReadDeadlines};

/// Ends connections whose peers keep a frame waiting: the first one (10 s), any one that has begun (30 s), or the next
/// (60 s).
///
/// A peer that connects and says nothing, or one that has gone to sleep, holds a place: without these deadlines it does
/// until its place is needed ([`MakeRoom`](crate::MakeRoom)), and a frame that has begun has 30 s for each 64 KiB of
/// it. They are for protocols that know better, and take the place of that one. A peer that waits for *our* answer is
/// never ended by them, however slow the service is.
///
/// The layer itself only puts the [`ReadDeadlines`] on the connection. They are kept by the leaves, `framed` and
/// `session`, for only they know frames; a `Service<Connection>` of your own would have to do it itself. A connection
/// they end is closed properly, with the reason [`FirstFrameTimeout`], [`FrameTimeout`] or [`IdleTimeout`].
///
/// It goes around connections only.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::{Connection, ReadDeadlineLayer};
/// use tower::{ServiceBuilder, service_fn};
///
/// let service = ServiceBuilder::new()
///     .layer(ReadDeadlineLayer::new().idle(Duration::from_secs(300)))
///     .service(service_fn(async |connection: Connection| {
///         assert_eq!(connection.read_deadlines().idle, Some(Duration::from_secs(300)));
///         Ok::<_, std::io::Error>(())
///     }));
/// ```
///
/// [`FirstFrameTimeout`]: crate::CloseReason::FirstFrameTimeout
/// [`FrameTimeout`]: crate::CloseReason::FrameTimeout
/// [`IdleTimeout`]: crate::CloseReason::IdleTimeout
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct ReadDeadlineLayer {
    /// None to leave the connection those it has.
    deadlines: Option<ReadDeadlines>,
}

impl ReadDeadlineLayer {
    /// All three, with their defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another deadline for the first frame, from when it is waited for until it is whole; `None` turns it off.
    pub fn first_frame(self, deadline: impl Into<Option<Duration>>) -> Self {
        Some(self.or_default().first_frame(deadline)).into()
    }

    /// Another deadline for each frame, from its first byte until it is whole; `None` turns it off.
    pub fn frame(self, deadline: impl Into<Option<Duration>>) -> Self {
        Some(self.or_default().frame(deadline)).into()
    }

    /// Another deadline between two frames; `None` turns it off.
    pub fn idle(self, deadline: impl Into<Option<Duration>>) -> Self {
        Some(self.or_default().idle(deadline)).into()
    }

    fn or_default(self) -> ReadDeadlines {
        self.deadlines.unwrap_or_default()
    }
}

impl Default for ReadDeadlineLayer {
    fn default() -> Self {
        Some(ReadDeadlines::default()).into()
    }
}

impl From<Option<ReadDeadlines>> for ReadDeadlineLayer {
    /// These deadlines; `None` makes a layer that changes nothing, for a server whose deadlines are a matter of its
    /// configuration.
    fn from(deadlines: Option<ReadDeadlines>) -> Self {
        Self { deadlines }
    }
}

impl<S> Layer<S> for ReadDeadlineLayer {
    type Service = ReadDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReadDeadline { inner, deadlines: self.deadlines }
    }
}

/// A service whose peers are not waited for endlessly; made by [`ReadDeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ReadDeadline<S> {
    inner: S,
    deadlines: Option<ReadDeadlines>,
}

impl<S> ReadDeadline<S> {
    /// The service behind this one.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind this one, without the deadlines.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> Service<Connection> for ReadDeadline<S>
where
    S: Service<Connection>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        self.inner.call(match self.deadlines {
            Some(deadlines) => connection.with_read_deadlines(deadlines),
            None => connection,
        })
    }
}
