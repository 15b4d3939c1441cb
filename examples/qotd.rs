//! Try it: `cargo run --example qotd -- --quote 'Carpe diem'`, then `nc 127.0.0.1 8007`.

use std::sync::Arc;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{RawBytes, Result, Session, StateLayer, session_with};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The quote
    #[arg(long, default_value = "An apple a day keeps the doctor away")]
    quote: String,
}

/// The server speaks first, and closes the connection.
async fn qotd(mut s: Session<RawBytes>, quote: Arc<str>) -> Result {
    s.feed(&*quote)?;
    s.close().await
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    // Raw, because a frame of `Lines` can't have several lines.
    let quote: Arc<str> = format!("{}\r\n", cli.quote).into();
    cli.server.server().layer(StateLayer::new(quote)).serve(session_with(RawBytes, qotd)).await
}
