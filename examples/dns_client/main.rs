//! Try it: `cargo run --example dns`, then `cargo run --example dns_client -- www.example.org mail.example.org`; or a public
//! server, encrypted: `--to 'tls:9.9.9.9:853?name=dns.quad9.net'`.

mod id;

use std::io::{Write, stdout};
use std::time::Duration;

use clap::Parser;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::A;
use ropewalk::client::Client;
use ropewalk::{LengthPrefixed, Remote, Result};
use tokio::task::JoinSet;

use self::id::Id;

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "tcp:127.0.0.1:8007")]
    to: Remote,
    /// The names whose IPv4 addresses are asked for, all at once
    #[arg(required = true)]
    names: Vec<Name<Vec<u8>>>,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { to, names } = Cli::parse();
    let client = Client::new().connect(to).call_within(Duration::from_secs(5));
    let (server, _handle) = client.tagged::<Vec<u8>, _, _>(LengthPrefixed::u16(), Id::default())?;
    let mut asked = JoinSet::new();
    for name in names {
        let mut query = MessageBuilder::new_vec().question();
        query.header_mut().set_rd(true);
        query.push((&name, Rtype::A))?;
        let server = server.clone();
        asked.spawn(async move { (name, server.ask(query.finish()).await) });
    }
    // The answers arrive in any order.
    while let Some(answered) = asked.join_next().await {
        let (name, answer) = answered?;
        let message = Message::from_octets(answer?)?;
        let addresses = message.answer()?.limit_to::<A>().map(|record| Ok(record?.data().addr().to_string()));
        writeln!(stdout(), "{name} {}", addresses.collect::<Result<Vec<_>>>()?.join(" "))?;
    }
    Ok(())
}
