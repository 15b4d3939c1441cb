//! Try it: `cargo run --example scgi`, then `printf '24:CONTENT_LENGTH\0002\0SCGI\0001\0,hi' | nc -N 127.0.0.1 8007`.

use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::codec::CodecError;
use ropewalk::{BytesMut, Netstring, PeerLimitLayer, Result, Session, session};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

const MAX_BODY: u64 = 64 * 1024 * 1024;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The most connections of one address, such as the web server's
    #[arg(long, default_value_t = 1000)]
    per_peer: usize,
}

/// The length of the body, and all variables as lines, which may be Latin-1; `None` if the header is invalid.
fn parse(header: &[u8]) -> Option<(u64, Vec<u8>)> {
    let words: Vec<&[u8]> = header.strip_suffix(b"\0")?.split(|&byte| byte == 0).collect();
    let (pairs, []) = words.as_chunks::<2>() else { return None };
    let [b"CONTENT_LENGTH", length] = pairs.first()? else { return None };
    let count = |wanted: &[u8]| pairs.iter().filter(|[name, _]| *name == wanted).count();
    // With two lengths a request could be smuggled past a web server that uses the other one.
    let is_well = pairs.contains(&[b"SCGI", b"1"]) && count(b"SCGI") == 1 && count(b"CONTENT_LENGTH") == 1;
    if !is_well || count(b"") > 0 || length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let lines = pairs.iter().flat_map(|[name, value]| [name, &b": "[..], value, b"\n"]).collect::<Vec<_>>().concat();
    // A number with more digits than the type takes is too large in any case.
    Some((std::str::from_utf8(length).ok()?.parse().unwrap_or(u64::MAX), lines))
}

/// Answers the one request of a connection.
pub(crate) async fn scgi(mut s: Session<Netstring>) -> Result {
    let status = match s.next().await {
        Ok(Some(header)) => match parse(&header) {
            Some((length, variables)) if length <= MAX_BODY => return echo(s, length, variables).await,
            Some(_) => "413 Content Too Large",
            None => "400 Bad Request",
        },
        Ok(None) => return Ok(()),
        Err(error) if error.is_read_timeout() => "408 Request Timeout",
        Err(error) if error.downcast_ref::<CodecError>().is_some() => "400 Bad Request",
        Err(error) => return Err(error),
    };
    s.feed_raw(format!("Status: {status}\r\nContent-Type: text/plain\r\n\r\n{status}\n"))?;
    s.close().await
}

/// Answers with the variables, which include method and headers, and the body.
async fn echo(mut s: Session<Netstring>, length: u64, variables: Vec<u8>) -> Result {
    // The whole body is stored before the answer begins, because nginx stops sending it then.
    let mut body = File::from_std(tempfile::tempfile()?);
    let mut chunks = s.raw_chunks(length)?;
    while let Some(chunk) = chunks.next().await? {
        body.write_all(&chunk).await?;
    }
    body.rewind().await?;
    drop(chunks);
    s.feed_raw([b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n", &variables[..], b"\n"].concat())?;
    let mut piece = BytesMut::with_capacity(64 * 1024);
    while body.read_buf(&mut piece).await? > 0 {
        s.feed_raw(piece.split())?;
        s.flush().await?;
    }
    s.close().await
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, per_peer } = Cli::parse();
    let server = server.idle_or(Duration::from_secs(30)).server().layer(PeerLimitLayer::new(per_peer));
    server.serve(session(Netstring::new(), scgi)).await
}
