//! Try it: `cargo run --example dns`, then `cargo run --example dns_client -- www.example.org mail.example.org`; or a public
//! server, encrypted: `--to 'tls:9.9.9.9:853?name=dns.quad9.net'`.

use std::io::{Write, stdout};
use std::time::Duration;

use clap::Parser;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::A;
use ropewalk::client::{Client, Tag};
use ropewalk::{Bytes, LengthPrefixed, Remote, Result};
use tokio::task::JoinSet;

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "tcp:127.0.0.1:8007")]
    to: Remote,
    /// The names whose IPv4 addresses are asked for, all at once
    #[arg(required = true)]
    names: Vec<Name<Vec<u8>>>,
}

/// The number that a query and its answer begin with.
#[derive(Clone, Default)]
struct Id(u16);

impl Tag<Vec<u8>, Bytes> for Id {
    type Id = u16;

    fn assign(&mut self, query: &mut Vec<u8>, taken: &dyn Fn(&u16) -> bool) -> u16 {
        while taken(&self.0) {
            self.0 = self.0.wrapping_add(1);
        }
        let id = self.0;
        self.0 = self.0.wrapping_add(1);
        query[..2].copy_from_slice(&id.to_be_bytes());
        id
    }

    fn finish(&mut self, answer: &Bytes) -> Option<u16> {
        answer.first_chunk().map(|id| u16::from_be_bytes(*id))
    }
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
    // As the answers come, in any order.
    while let Some(answered) = asked.join_next().await {
        let (name, answer) = answered?;
        let message = Message::from_octets(answer?)?;
        let addresses = message.answer()?.limit_to::<A>().map(|record| Ok(record?.data().addr().to_string()));
        writeln!(stdout(), "{name} {}", addresses.collect::<Result<Vec<_>>>()?.join(" "))?;
    }
    Ok(())
}
