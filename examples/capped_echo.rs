//! Try it: `cargo run --example capped_echo -- --max 1`, then twice: `nc 127.0.0.1 8007`.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, ConnectionLimitLayer, LogLayer, RawBytes, Result, framed, reply_fn};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The most connections served at once
    #[arg(long, default_value_t = 100)]
    max: usize,
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    cli.server
        .server()
        .layer(LogLayer::new())
        .layer(ConnectionLimitLayer::new(cli.max).refuse_with("Too many connections, try later\r\n"))
        .serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)))
        .await
}
