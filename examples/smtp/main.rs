//! Try it: `cargo run --example smtp`, then `swaks --server 127.0.0.1:8007 --to you@example.org --tls`.
//!
//! A mail server that receives mails (RFC 5321) into a maildir, and confirms them when they are on the disk. By hand
//! use `nc -C`, because lines end with CR LF.

mod maildir;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::layer::MakeRoom;
use ropewalk::{ConnectionLimitLayer, PeerLimitLayer, Result, StateLayer, TlsConfig, session_with};

use crate::maildir::Maildir;
use crate::session::{Config, lines, smtp};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The maildir
    #[arg(long, default_value = "maildir")]
    maildir: PathBuf,
    /// This host's name, for the greeting, the mails' headers and the names of their files
    #[arg(long, default_value = "localhost")]
    name: String,
    /// A domain whose mail is accepted; may be given several times; without it, all mail is accepted
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<String>,
    /// The largest mail, in bytes
    #[arg(long, default_value_t = 25 * 1024 * 1024)]
    max_size: u64,
    /// The most connections served at once
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// The most connections of one address
    #[arg(long, default_value_t = 100)]
    per_peer: usize,
    /// A file with the certificate's chain, PEM; without one, a certificate for the name is made
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The file with its key, PEM
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, maildir, name, domains, max_size, connections, per_peer, cert, key } = Cli::parse();
    // RFC 5321, 4.5.3.2: at least five minutes, for a command and for a piece of data.
    let server = server.idle_or(Duration::from_secs(300)).server();
    let tls = if let Some((cert, key)) = cert.zip(key) {
        TlsConfig::files(cert, key)
    } else {
        let made = rcgen::generate_simple_self_signed([name.clone()])?;
        TlsConfig::pem(made.cert.pem(), made.signing_key.serialize_pem())
    };
    tls.load()?;
    let maildir = Maildir::open(maildir, &name)?;
    let config = Arc::new(Config { name, domains, max_size, tls: tls.clone(), maildir });
    let refusal = "421 4.7.0 too many connections, come back later\r\n";
    let limit = ConnectionLimitLayer::new(connections).refuse_with(refusal).make_room(MakeRoom::new());
    let share = PeerLimitLayer::new(per_peer).refuse_with("421 4.7.0 too many connections from your address\r\n");
    let smtp = session_with(lines(), smtp);
    server.reload_tls(tls).layer(share).layer(limit).layer(StateLayer::new(config)).serve(smtp).await
}
