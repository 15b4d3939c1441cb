//! Try it: `cargo run`, then `printf 0005hello | nc 127.0.0.1 8007`, which prints `0005HELLO`.

use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{ConnectionLimitLayer, LogLayer, Result, framed, reply_fn};

#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The most connections served at once
    #[arg(long, default_value_t = 1000)]
    max: usize,
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    cli.server
        .idle_or(Duration::from_secs(60))
        .server()
        .layer(LogLayer::new())
        .layer(ConnectionLimitLayer::new(cli.max))
        .serve(framed({{crate_name}}::codec(), reply_fn({{crate_name}}::answer)))
        .await
}
