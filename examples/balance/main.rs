//! Try it: `memcached -p 11301 &`, `memcached -p 11302 &`, `cargo run --example balance -- --to tcp:127.0.0.1:11301 --to
//! tcp:127.0.0.1:11302`, then `printf 'set a 0 0 2\r\nhi\r\nget a\r\n' | nc -N 127.0.0.1 8007`.
//!
//! A proxy before several memcached. The key of a command determines its server (ketama), and tower's `Balance` chooses
//! one of the connections to that server. If a server is gone, its keys are misses; they are not looked up elsewhere.

#[path = "../memcached_client/codec.rs"]
mod client_codec;
mod command;
mod pool;
mod ring;

use std::sync::Arc;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Error, Remote, Result, framed, service_fn};

use self::command::Commands;
use self::pool::Pool;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// A memcached; may be given several times
    #[arg(long = "to", value_name = "REMOTE", required = true)]
    servers: Vec<Remote>,
    /// The number of connections to each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, servers, connections } = Cli::parse();
    let pool = Arc::new(Pool::new(servers, connections)?);
    let answer = service_fn(move |command| {
        let pool = Arc::clone(&pool);
        async move { Ok(pool.answer(command).await) }
    });
    // One command at a time: two of the same client could overtake one another on different connections.
    let leaf = framed(Commands::default(), answer);
    server.server().serve(leaf.on_error(|error: &Error| Some(Bytes::from(format!("CLIENT_ERROR {error}\r\n"))))).await
}
