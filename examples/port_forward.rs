//! Try it: `cargo run --example port_forward -- --to 127.0.0.1:8099`, then `nc 127.0.0.1 8007`; and before that, at 8099,
//! `cargo run --example capped_echo -- --listen 'proxy+tcp:127.0.0.1:8099?trust=127.0.0.1'`, which takes PROXY headers.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use ropewalk::{Connection, Error, Peer, Result, Stats, cli::ServerArgs, proxy::Header};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

/// How long a connection to one address of the server may take.
const ONE_ADDRESS: Duration = Duration::from_secs(3);
/// How long the look-up of its name and connections to all of them may take.
const ALL_ADDRESSES: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// Where connections are handed on to; of a name with several addresses the first one that answers
    #[arg(long, value_name = "HOST:PORT")]
    to: Arc<str>,
    /// The version of the PROXY header that tells of the client
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    proxy: u8,
}

/// Tries one address after the other: the first may be of a machine that is down and does not even refuse.
async fn connect(to: &str) -> Result<TcpStream> {
    let mut error = Error::other("the name has no address");
    for address in lookup_host(to).await? {
        match timeout(ONE_ADDRESS, TcpStream::connect(address)).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => return Ok(stream),
            Err(failed) => error = failed.into(),
        }
    }
    Err(error)
}

/// Hands a connection on, with what a proxy before has told. Each way ends for itself; what breaks breaks on both sides.
async fn forward(mut client: Connection, to: Arc<str>, version: u8, idle: Option<Duration>) -> Result {
    let told = client.peer().proxied().and_then(|proxied| proxied.destination()).cloned();
    let header = Header::new(client.peer().addr().clone(), told.unwrap_or_else(|| client.local()));
    let backend = timeout(ALL_ADDRESSES, connect(&to)).await??;
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

/// Ends once nothing has moved for this time, or for up to twice as long.
async fn silence(stats: Stats, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    let mut before = None;
    while before.replace((stats.bytes_in(), stats.bytes_out())) != Some((stats.bytes_in(), stats.bytes_out())) {
        sleep(idle).await;
    }
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, to, proxy } = Cli::parse();
    let server = server.idle_or(Duration::from_secs(300));
    let idle = server.idle();
    let forward = move |client| forward(client, to.clone(), proxy, idle);
    server.server().serve(tower::service_fn(forward)).await
}
