//! Which spans there are: one for each connection, and in it one for each line.

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use ropewalk::{Bytes, LogLayer, Result};
use tracing::{Instrument, Subscriber, info_span};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

/// Passes spans on to OpenTelemetry.
pub(crate) fn subscriber(provider: &SdkTracerProvider) -> impl Subscriber + Send + Sync + use<> {
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("telemetry"));
    Registry::default().with(spans)
}

/// Makes the span of a connection, whose fields have the names of OpenTelemetry's conventions. It is exported when the connection
/// ends, and those of its lines before it.
pub(crate) fn log() -> LogLayer {
    LogLayer::new().open_telemetry()
}

/// The answer to a line: itself.
pub(crate) async fn answer(line: Bytes) -> Result<Bytes> {
    let span = info_span!("line", bytes = line.len());
    // All that the work does (a query, a call of another server) belongs to this span.
    async { Ok(line) }.instrument(span).await
}
