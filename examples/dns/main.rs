//! Try it: `cargo run --example dns`, then `dig +tcp -p 8007 @127.0.0.1 www.example.org`.
//!
//! An authoritative name server for one zone, over TCP (RFC 7766) and TLS (RFC 7858):
//! `--listen 'tls:127.0.0.1:8853?cert=cert.pem&key=key.pem&alpn=dot'`, then `dig +tls -p 8853 @127.0.0.1 www.example.org`.
//! It has no zone transfer, no update, no DNSSEC and no UDP.

mod master;
mod service;
mod zone;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::layer::MakeRoom;
use ropewalk::{ConnectionLimitLayer, Error, LengthPrefixed, PeerLimitLayer, Result, framed, service_fn};

use crate::service::{Answers, IN_FLIGHT};
use crate::zone::{Owner, Zone};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The zone: a master file (RFC 1035, section 5) without $INCLUDE
    #[arg(long, default_value = "examples/dns/example.zone")]
    zone: PathBuf,
    /// The most connections served at once
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// The most connections of one address
    #[arg(long, default_value_t = 100)]
    per_peer: usize,
    /// A name that is answered half a second late, so that other answers overtake it
    #[arg(long)]
    slow: Option<Owner>,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, zone, connections, per_peer, slow } = Cli::parse();
    let server = server.idle_or(Duration::from_secs(10));
    let read = tokio::fs::read(&zone).await.map_err(Error::from).and_then(|file| Zone::parse(&file));
    let zone = read.map_err(|error| Error::other(format!("{}: {error}", zone.display())))?;
    let answers = Arc::new(Answers { zone, idle: server.idle(), slow });
    let answer = service_fn(move |query| Arc::clone(&answers).answer(query));
    server
        .server()
        .layer(PeerLimitLayer::new(per_peer))
        .layer(ConnectionLimitLayer::new(connections).refuse_with("").make_room(MakeRoom::new()))
        .serve(framed(LengthPrefixed::u16(), answer).unordered(IN_FLIGHT))
        .await
}
