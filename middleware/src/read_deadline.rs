//! Read deadlines for connections.

use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use crate::{Connection, ReadDeadlines};

/// Closes connections whose peers send no first frame (10 s), don't complete a frame (30 s), or are
/// idle between two frames (60 s).
///
/// Without this layer a silent peer keeps its slot until another connection needs it
/// ([`MakeRoom`](crate::MakeRoom)), and a frame that has begun has 30 s for each 64 KiB of it; with
/// the layer, its deadline for a frame replaces that one. A peer that waits for an answer is never
/// closed by these deadlines, however slow the service is.
///
/// The layer only stores the [`ReadDeadlines`] on the connection. The leaves `framed` and `session`
/// enforce them, because only they know where frames begin and end; a `Service<Connection>` of your
/// own has to do that itself. The connection is closed properly, with the reason
/// [`FirstFrameTimeout`], [`FrameTimeout`] or [`IdleTimeout`].
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
    /// `None` leaves a connection the deadlines that it has.
    deadlines: Option<ReadDeadlines>,
}

impl ReadDeadlineLayer {
    /// All three deadlines, with their defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of the first frame, from the first wait for it until it is complete;
    /// `None` turns it off.
    pub fn first_frame(self, deadline: impl Into<Option<Duration>>) -> Self {
        Some(self.or_default().first_frame(deadline)).into()
    }

    /// Sets the deadline of each frame, from its first byte until it is complete; `None` turns it
    /// off.
    pub fn frame(self, deadline: impl Into<Option<Duration>>) -> Self {
        Some(self.or_default().frame(deadline)).into()
    }

    /// Sets the deadline between two frames; `None` turns it off.
    pub fn idle(self, deadline: impl Into<Option<Duration>>) -> Self {
        Some(self.or_default().idle(deadline)).into()
    }

    /// Adds a second to the deadline of a frame for each `bytes` of it that have arrived, against
    /// peers that drip bytes: see [`ReadDeadlines::min_rate`]. 0, the default, turns it off.
    pub fn min_rate(self, bytes: u32) -> Self {
        Some(self.or_default().min_rate(bytes)).into()
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
    /// A layer with these deadlines. `None` makes one that changes nothing, for a server whose
    /// configuration decides.
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

/// A service whose peers have read deadlines; made by [`ReadDeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ReadDeadline<S> {
    inner: S,
    deadlines: Option<ReadDeadlines>,
}

impl<S> ReadDeadline<S> {
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
