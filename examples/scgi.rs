//! Try it: `cargo run --example scgi`, then `printf '24:CONTENT_LENGTH\0002\0SCGI\0001\0,hi' | nc -N 127.0.0.1 8007`.

use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{BytesMut, Netstring, Result, Session, session};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long anything of a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// The length of the body, which stands first, and all variables as lines; `None` if that is no header.
fn parse(header: &[u8]) -> Option<(u64, String)> {
    let words: Vec<&str> = std::str::from_utf8(header).ok()?.strip_suffix('\0')?.split('\0').collect();
    let ["CONTENT_LENGTH", length, ..] = words[..] else { return None };
    let lines = words.chunks(2).map(|pair| pair.join(": ") + "\n").collect();
    let whole = words.len().is_multiple_of(2) && words.chunks(2).any(|pair| pair == ["SCGI", "1"]);
    whole.then_some((length.parse().ok()?, lines))
}

/// One request a connection.
async fn scgi(mut s: Session<Netstring>) -> Result {
    let status = match timeout(PATIENCE, s.next()).await?.ok().flatten().and_then(|header| parse(&header)) {
        Some((length, variables)) if length <= MAX_BODY => return echo(s, length, variables).await,
        Some(_) => "413 Content Too Large",
        None => "400 Bad Request",
    };
    s.reply_raw(format!("Status: {status}\r\nContent-Type: text/plain\r\n\r\n{status}\n"))?;
    s.close().await
}

/// Answers with what the web server has sent: method and headers among the variables, then the body.
async fn echo(mut s: Session<Netstring>, length: u64, variables: String) -> Result {
    // All of it comes before the answer, for nginx sends no more of it once that has begun. It waits in a file.
    let mut body = File::from_std(tempfile::tempfile()?);
    let mut chunks = s.raw_chunks(length)?;
    while let Some(chunk) = timeout(PATIENCE, chunks.next()).await?? {
        body.write_all(&chunk).await?;
    }
    body.rewind().await?;
    drop(chunks);
    s.reply_raw(format!("Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n{variables}\n"))?;
    let mut piece = BytesMut::with_capacity(64 * 1024);
    while body.read_buf(&mut piece).await? > 0 {
        s.reply_raw(piece.split())?;
        s.flush().await?;
    }
    s.close().await
}

#[tokio::main]
async fn main() -> Result {
    ServerArgs::parse().server().serve(session(Netstring::new(), scgi)).await
}
