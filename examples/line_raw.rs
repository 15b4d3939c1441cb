//! Try it: `cargo run --example line_raw`, then `printf 'PUT 5\r\nhelloGET\r\n' | nc -N 127.0.0.1 8007`.

use std::sync::Arc;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::log::Escaped;
use ropewalk::{Bytes, Lines, Result, Session, StateLayer, session_with};
use tokio::sync::RwLock;

/// The most bytes that are stored: the limit of `Session::raw`.
const MAX: u64 = 1024 * 1024;

/// `PUT n` and n bytes of any kind store them for all; `GET` answers n and the n bytes.
async fn store(mut s: Session<Lines>, stored: Arc<RwLock<Bytes>>) -> Result {
    while let Some(line) = s.next().await? {
        let command = String::from_utf8_lossy(&line);
        match command.split_once(' ').unwrap_or((&command, "")) {
            ("PUT", size) => match size.parse() {
                Ok(n) if n <= MAX => {
                    let bytes = s.raw(n).await?;
                    *stored.write().await = bytes;
                    s.feed(format!("OK {n}"))?;
                }
                _ => {
                    // The end of its bytes is unknown, and they must not be executed as commands.
                    s.feed(format!("ERROR PUT takes 0 to {MAX} bytes"))?;
                    return s.close().await;
                }
            },
            ("GET", "") => {
                let bytes = stored.read().await.clone();
                s.feed(bytes.len().to_string())?;
                s.feed_raw(bytes)?;
            }
            _ => s.feed(format!("ERROR neither PUT nor GET: {}", Escaped::new(&line)))?,
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let stored = Arc::new(RwLock::new(Bytes::new()));
    ServerArgs::parse().server().layer(StateLayer::new(stored)).serve(session_with(Lines::crlf(), store)).await
}
