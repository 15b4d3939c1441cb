//! Try it: `cargo run --example memcached`, then `cargo run --example memcached_client -- set greeting hello` and
//! `cargo run --example memcached_client -- get greeting other`; or memcached itself, with `--to tcp:127.0.0.1:11211`.

mod codec;

use std::io::{Write, stdout};
use std::time::Duration;

use clap::Parser;
use ropewalk::client::Client;
use ropewalk::codec::LineOrRaw;
use ropewalk::{Bytes, LineRaw, Remote, Result};

use self::codec::{Memcached, part};

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "tcp:127.0.0.1:8007")]
    to: Remote,
    /// A command and its words: `get KEY...`, `set KEY VALUE`
    #[arg(required = true)]
    words: Vec<String>,
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
