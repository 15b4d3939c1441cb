//! Try it: `cargo run --example port_forward -- --to 127.0.0.1:8099`, then `nc 127.0.0.1 8007`; and before that, at 8099,
//! `cargo run --example capped_echo -- --listen 'proxy+tcp:127.0.0.1:8099?trust=127.0.0.1'`, which takes PROXY headers.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use ropewalk::{Connection, Peer, Result, Stats, cli::ServerArgs, proxy::Header};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// Where connections are handed on to
    #[arg(long, value_name = "HOST:PORT")]
    to: Arc<str>,
    /// The version of the PROXY header that tells of the client
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    proxy: u8,
    /// After how many seconds, or twice as many, a connection on which nothing moves is broken off
    #[arg(long, default_value_t = 300)]
    idle: u64,
}

/// Hands a connection on, with what a proxy before has told. Each way ends for itself; what breaks breaks on both sides.
async fn forward(mut client: Connection, to: Arc<str>, version: u8, idle: Duration) -> Result {
    let told = client.peer().proxied().and_then(|proxied| proxied.destination()).cloned();
    let header = Header::new(client.peer().addr().clone(), told.unwrap_or_else(|| client.local()));
    let backend = timeout(Duration::from_secs(5), TcpStream::connect(&*to)).await??;
    let peer = Peer::new(backend.peer_addr()?);
    let mut backend = Connection::new(backend, peer);
    // A new socket takes it at once.
    backend.write_all(&if version == 1 { header.to_v1() } else { header.to_v2() }).await?;
    tokio::select! {
        () = silence(client.stats(), idle) => {}
        copied = copy_bidirectional(&mut client, &mut backend) => if copied.is_ok() {
            client.close().await;
            return Ok(());
        },
    }
    client.abort();
    backend.abort();
    Ok(())
}

async fn silence(stats: Stats, idle: Duration) {
    let mut before = None;
    while before.replace((stats.bytes_in(), stats.bytes_out())) != Some((stats.bytes_in(), stats.bytes_out())) {
        sleep(idle).await;
    }
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, to, proxy, idle } = Cli::parse();
    let forward = move |client| forward(client, to.clone(), proxy, Duration::from_secs(idle));
    server.server().serve(tower::service_fn(forward)).await
}
