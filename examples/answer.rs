//! Try it: `cargo run --example answer`, then `printf 'How are you?\r\n' | nc -N 127.0.0.1 8007`.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Lines, Result, framed, reply_fn};

#[tokio::main]
async fn main() -> Result {
    // Lines have no CR LF in the service; the codec removes and adds it.
    let answer = reply_fn(|line: Bytes| match &line[..] {
        b"How are you?" => "Fine",
        _ => "I don't know what you mean",
    });
    ServerArgs::parse().server().serve(framed(Lines::crlf(), answer)).await
}
