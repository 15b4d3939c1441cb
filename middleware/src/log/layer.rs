use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;
use tracing::Level;

use super::fields::{Fields, Settings};
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
/// [`details`](Self::details) adds the local address, TLS and the proxy to the span, and
/// [`open_telemetry`](Self::open_telemetry) does so with the field names of OpenTelemetry. To log
/// fewer connections, there are [`sample`](Self::sample) and [`slower_than`](Self::slower_than).
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
    settings: Settings,
    max: Option<usize>,
}

impl LogLayer {
    /// A layer that logs at INFO.
    pub fn new() -> Self {
        Self { settings: Settings::new(), max: None }
    }

    /// The same at another level.
    pub fn level(self, level: Level) -> Self {
        self.with(|settings| settings.level = level)
    }

    /// Logs at most `max` connections a second; with 0 it logs no connection. The others have a
    /// span but no lines, and once a second a line counts them (`suppressed`).
    pub fn max_per_second(self, max: usize) -> Self {
        Self { max: Some(max), ..self }
    }

    /// Adds fields to the span, as far as the connection has them: `local`, the address of this
    /// end; `tls`, the version, with `server_name` and `alpn`; `proxy`, the address of the proxy,
    /// if `peer` is a client behind one. The local address costs a system call for each connection.
    pub fn details(self) -> Self {
        self.with(|settings| settings.fields = Fields::Full)
    }

    /// Names the fields as OpenTelemetry's conventions do: the span has `network.transport`,
    /// `network.peer.address` and `.port` (of a proxy, if there is one), `network.local.address`
    /// and `.port`, `client.address` and `.port` (of a client behind a proxy), `tls.protocol.name`
    /// and `.version`, `tls.client.server_name`, and `network.protocol.name` (ALPN), as far as the
    /// connection has them. The closing line has `error.type`, unless the reason is `done` or
    /// `drained`. For all else there is no convention, and the names stay. The local address costs
    /// a system call for each connection.
    pub fn open_telemetry(self) -> Self {
        self.with(|settings| settings.fields = Fields::OpenTelemetry)
    }

    /// Logs one connection of `n`, by its number; the others have a span but no lines, and don't
    /// count for [`max_per_second`](Self::max_per_second).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0.
    pub fn sample(self, n: u64) -> Self {
        assert!(n > 0, "one of 0 connections can't be chosen");
        self.with(|settings| settings.sample = n)
    }

    /// Logs only connections that lasted this long or longer: their closing line. No connection has
    /// an opening line, because it is not known then. The others don't count for
    /// [`max_per_second`](Self::max_per_second).
    pub fn slower_than(self, duration: Duration) -> Self {
        self.with(|settings| settings.slower_than = duration)
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
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
        Log {
            inner,
            settings: self.settings,
            limits: Arc::new(LineLimits::new(self.settings.level, self.max)),
        }
    }
}
