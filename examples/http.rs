//! Try it: `cargo run --example http`, then `curl http://127.0.0.1:8007/`: an axum router on the endpoints of this server.

use std::{future::poll_fn, pin::pin};

use axum::{Router, routing::get};
use clap::Parser;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, rt::TokioTimer, service::TowerToHyperService};
use ropewalk::cli::ServerArgs;
use ropewalk::{Connection, Error, Result};
use tower::service_fn;

/// One connection. When the server drains, it ends after the answer under way.
async fn http(connection: Connection, router: Router) -> Result {
    let closing = connection.closing();
    let service = TowerToHyperService::new(router);
    // With a timer hyper gives the head of a request 30 s.
    let http = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), service);
    let mut http = pin!(http.with_upgrades());
    tokio::select! {
        biased;
        ended = &mut http => return ended.map_err(Error::other),
        () = poll_fn(|cx| closing.poll_draining(cx)) => http.as_mut().graceful_shutdown(),
    }
    http.await.map_err(Error::other)
}

#[tokio::main]
async fn main() -> Result {
    let router = Router::new().route("/", get(async || "Hello\n"));
    ServerArgs::parse().server().serve(service_fn(move |connection| http(connection, router.clone()))).await
}
