//! Try it: `cargo run --example echo`, then `nc 127.0.0.1 8007`: what you type comes back.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, RawBytes, Result, framed, reply_fn};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    cli.server.server().serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).await
}
