//! Try it: `cargo run --example echo`, then `nc 127.0.0.1 8007`: what you type comes back.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, RawBytes, Result, framed, reply_fn};

#[tokio::main]
async fn main() -> Result {
    ServerArgs::parse().server().serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).await
}
