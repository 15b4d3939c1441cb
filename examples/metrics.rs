//! Try it: `cargo run --example metrics`, then `nc 127.0.0.1 8007`, and `curl http://127.0.0.1:9100/metrics` (Prometheus).

use std::{future::poll_fn, future::ready, pin::pin, time::Duration};

use axum::{Router, routing::get};
use clap::Parser;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, rt::TokioTimer, service::TowerToHyperService};
use metrics_exporter_prometheus::PrometheusBuilder;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Connection, Endpoint, Error, Lines, Result, framed, metrics, reply_fn};
use tower::service_fn;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// Where the metrics are served
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp:127.0.0.1:9100")]
    metrics: Endpoint,
}

/// As in the example `http`.
async fn http(connection: Connection, router: Router) -> Result {
    let closing = connection.closing();
    let service = TowerToHyperService::new(router);
    let http = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), service);
    let mut http = pin!(http);
    tokio::select! {
        biased;
        ended = &mut http => return ended.map_err(Error::other),
        () = poll_fn(|cx| closing.poll_draining(cx)) => http.as_mut().graceful_shutdown(),
    }
    http.await.map_err(Error::other)
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    let recorder = PrometheusBuilder::new().install_recorder().map_err(Error::other)?;
    let router = Router::new().route("/metrics", get(move || ready(recorder.render())));
    let serve = cli
        .server
        .server()
        .serve_on("metrics", [cli.metrics], service_fn(move |connection| http(connection, router.clone())))
        .serve(framed(Lines::any(), reply_fn(|line: Bytes| line)));
    tokio::spawn(metrics::export(serve.handle(), Duration::from_secs(1)));
    serve.await
}
