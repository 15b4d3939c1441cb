use std::sync::Arc;

use tower_layer::Layer;
use tracing::Level;

use super::limits::LineLimits;
use super::service::Log;

/// Logs every connection: one line when it opens, one when it ends, and a span around everything in
/// between.
///
/// The span is `connection` with the fields `id`, `peer` and `listener`. The closing line has
///
/// * `reason`: the [`CloseReason`](crate::CloseReason) as a word. If no reason is set, this layer
///   sets it: by how the service ended, `panic` when it panicked, `aborted` when it was dropped
///   unfinished;
/// * `bytes_in`, `bytes_out`, `frames_in`, `frames_out`;
/// * `duration_ms`, since the connection was accepted;
/// * `error`, if there was an error, escaped and cut.
///
/// It is written exactly once, however the connection ends. Span and lines have the target
/// `ropewalk::connection` and by default the level INFO ([`level`](Self::level)).
///
/// A connection that a limit refuses has the closing line only, and at most nine of these are
/// written a second, with a tenth that counts the others (`suppressed`). All other connections have
/// both lines, however many there are, unless [`max_per_second`](Self::max_per_second) sets a
/// limit.
///
/// A subscriber that panics costs its line and nothing else. A subscriber that blocks, blocks the
/// connection's thread: give it a writer that does not block, such as
/// [`BackgroundLog`](crate::BackgroundLog).
///
/// The span is made where the connection is run, at its first poll, and not where it is accepted.
/// So work that the service does in its `call`, and not in its future, is outside the span.
///
/// It goes around connections only; [`FrameLogLayer`](super::FrameLogLayer) logs frames.
///
/// ```
/// use ropewalk_middleware::{Connection, LogLayer};
/// use tower::{ServiceBuilder, service_fn};
///
/// let service = ServiceBuilder::new()
///     .layer(LogLayer::new().level(tracing::Level::DEBUG))
///     .service(service_fn(async |connection: Connection| Ok::<_, std::io::Error>(connection.close().await)));
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct LogLayer {
    level: Level,
    max: Option<usize>,
}

impl LogLayer {
    /// A layer that logs at INFO.
    pub fn new() -> Self {
        Self { level: Level::INFO, max: None }
    }

    /// The same at another level.
    pub fn level(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// Logs at most `max` connections a second; with 0 it logs no connection. The others have a
    /// span but no lines, and once a second a line counts them (`suppressed`).
    pub fn max_per_second(self, max: usize) -> Self {
        Self { max: Some(max), ..self }
    }
}

impl Default for LogLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LogLayer {
    type Service = Log<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Log { inner, level: self.level, limits: Arc::new(LineLimits::new(self.level, self.max)) }
    }
}
