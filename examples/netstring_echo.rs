//! Try it: `cargo run --example netstring_echo`, then `printf '5:hello,0:,' | nc -N 127.0.0.1 8007`.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Netstring, Result, framed, reply_fn};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    // What is no netstring, or one over 64 KiB, ends its connection; what was answered before still arrives.
    cli.server.server().serve(framed(Netstring::new(), reply_fn(|frame: Bytes| frame))).await
}
