//! Try it: `cargo run --example telemetry`, then `printf 'hello\n' | nc -N 127.0.0.1 8007`: the spans are printed.
//!
//! In a real program an exporter that sends to a collector, such as that of `opentelemetry-otlp`, takes the place of the one that
//! prints.

mod spans;

use clap::Parser;
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_stdout::SpanExporter;
use ropewalk::cli::ServerArgs;
use ropewalk::{Error, Lines, Result, framed, service_fn};

#[tokio::main]
async fn main() -> Result {
    let args = ServerArgs::parse();
    // Exports on a thread of its own.
    let provider = SdkTracerProvider::builder().with_batch_exporter(SpanExporter::default()).build();
    tracing::subscriber::set_global_default(spans::subscriber(&provider)).map_err(Error::other)?;
    let echo = framed(Lines::any(), service_fn(spans::answer));
    let ended = args.server().layer(spans::log()).serve(echo).await;
    // The last spans are exported.
    provider.shutdown().map_err(Error::other)?;
    ended
}
