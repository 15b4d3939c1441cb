//! Try it: `cargo run --example memcached`, then `cargo run --example memcached_client -- set greeting hello` and
//! `cargo run --example memcached_client -- get greeting other`; or memcached itself, with `--to tcp:127.0.0.1:11211`.

use std::io::{Write, stdout};
use std::time::Duration;

use clap::Parser;
use ropewalk::client::{Client, Part};
use ropewalk::{Bytes, BytesMut, CodecError, Decoder, Encoder, LineOrRaw, LineRaw, Remote, Result};

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "tcp:127.0.0.1:8007")]
    to: Remote,
    /// A command and its words: `get KEY...`, `set KEY VALUE`
    #[arg(required = true)]
    words: Vec<String>,
}

/// The client's side of the text protocol: commands out; lines, and the data behind them, in.
#[derive(Clone)]
struct Memcached(LineRaw);

impl Decoder for Memcached {
    type Item = LineOrRaw;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let frame = self.0.decode(src)?;
        if let Some(LineOrRaw::Line(line)) = &frame
            && let Some(length) = data_length(line)
        {
            self.0.raw_whole(length + 2);
        }
        Ok(frame)
    }
}

impl Encoder<Bytes> for Memcached {
    type Error = CodecError;

    fn encode(&mut self, command: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&[&command, "\r\n".as_bytes()].concat());
        Ok(())
    }
}

/// How long the data is behind `VALUE key flags length`.
fn data_length(line: &[u8]) -> Option<usize> {
    let words = std::str::from_utf8(line).ok()?.strip_prefix("VALUE ")?;
    words.split(' ').nth(2)?.parse().ok().filter(|length| *length <= 1024 * 1024)
}

/// The values of a `get` come up to `END`; any other answer is a line.
fn part(frame: &LineOrRaw) -> Part {
    match frame {
        LineOrRaw::Line(line) if data_length(line).is_none() => Part::Last,
        _ => Part::More,
    }
}

#[tokio::main]
async fn main() -> Result {
    let Cli { to, words } = Cli::parse();
    let client = Client::new().connect(to).call_within(Duration::from_secs(5)).answers(part);
    let (cache, _handle) = client.pipelined::<Bytes, _>(Memcached(LineRaw::crlf()))?;
    let command = match &words[..] {
        [set, key, value] if set == "set" => format!("set {key} 0 0 {}\r\n{value}", value.len()),
        words => words.join(" "),
    };
    for frame in cache.ask(command).await? {
        let (LineOrRaw::Line(bytes) | LineOrRaw::Raw(bytes)) = frame;
        writeln!(stdout(), "{}", String::from_utf8_lossy(&bytes).trim_end())?;
    }
    Ok(())
}
