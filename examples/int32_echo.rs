//! Try it: `cargo run --example int32_echo`, then `printf '\0\0\0\5hello' | nc -N 127.0.0.1 8007 | xxd`.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, LengthPrefixed, Result, framed, reply_fn};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The bits of the length before each frame
    #[arg(long, default_value = "32", value_parser = ["8", "16", "32"])]
    width: String,
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    let codec = match &*cli.width {
        "8" => LengthPrefixed::u8(),
        "16" => LengthPrefixed::u16(),
        _ => LengthPrefixed::u32(),
    };
    // A length over 64 KiB ends the connection before any of the frame is read.
    cli.server.server().serve(framed(codec, reply_fn(|frame: Bytes| frame))).await
}
