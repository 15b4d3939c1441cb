//! Try it: `cargo run --example netstring_echo`, then `printf '5:hello,0:,' | nc -N 127.0.0.1 8007`.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Netstring, Result, framed, reply_fn};

#[tokio::main]
async fn main() -> Result {
    // Bytes that are not a netstring, or one over 64 KiB, end their connection; earlier answers still arrive.
    ServerArgs::parse().server().serve(framed(Netstring::new(), reply_fn(|frame: Bytes| frame))).await
}
