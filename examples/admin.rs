//! Try it: `cargo run --example admin -- --token-file FILE`, then open `http://127.0.0.1:9901/` and enter the token.
//!
//! An echo of lines to watch: `I am NAME` gives a connection its name, `sleep MS` takes its time.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;
use ropewalk::cli::ServerArgs;
use ropewalk::layer::{CallLatencyLayer, ConnectionLimitLayer, Histogram, limit::RefuseWith};
use ropewalk::{Bytes, ConnectionInfo, Endpoint, Error, Lines, Result, metrics, per_connection, service_fn};
use ropewalk_admin::Admin;
use tokio::time::sleep;
use tower::ServiceBuilder;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// Where the admin endpoint listens
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp:127.0.0.1:9901")]
    admin: Endpoint,
    /// The file with its token, of mode 600; without one only what has no data of peers is answered
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// How a peer has introduced itself.
struct Name(String);

async fn answer(connection: ConnectionInfo, line: Bytes) -> Result<Bytes> {
    let text = String::from_utf8_lossy(&line);
    if let Some(name) = text.strip_prefix("I am ") {
        connection.insert(Name(name.to_owned()));
    } else if let Some(ms) = text.strip_prefix("sleep ") {
        sleep(Duration::from_millis(ms.parse().unwrap_or(0).min(1000))).await;
    }
    Ok(line)
}

/// The endpoint: what it shows besides the server's own counts.
fn admin(endpoint: Endpoint, calls: Histogram, limit: ConnectionLimitLayer<RefuseWith>) -> Result<Admin> {
    let recorder = PrometheusBuilder::new().install_recorder().map_err(Error::other)?;
    Ok(Admin::new()
        .listen(endpoint)
        .names(|connection| connection.get::<Name>().map(|name| name.0.clone()))
        .metrics(move || recorder.render())
        .latency("lines", calls)
        .counter("slots taken, of 5000", move || limit.active() as u64))
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    let latency = CallLatencyLayer::new().every_call();
    let limit = ConnectionLimitLayer::new(5000).refuse_with("Too many connections, try later\n");
    let mut admin = admin(cli.admin, latency.histogram(), limit.clone())?;
    if let Some(file) = cli.token_file {
        admin = admin.token_file(file);
    }
    let echo = per_connection(Lines::any(), move |connection| {
        let connection = connection.info();
        ServiceBuilder::new().layer(latency).service(service_fn(move |line| answer(connection.clone(), line)))
    });
    let serve = cli.server.server().layer(limit).serve(echo);
    tokio::spawn(metrics::export(serve.handle(), Duration::from_secs(1)));
    admin.run(serve).await
}
