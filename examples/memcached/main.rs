//! Try it: `cargo run --example memcached`, then `printf 'set a 0 0 2\r\nhi\r\nget a\r\n' | nc -N 127.0.0.1 8007`.
//! memcached's text protocol; docs/src/writing-a-protocol.md explains it step by step.

mod cache;
mod codec;
mod service;

use std::sync::{Arc, Mutex};

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::layer::MakeRoom;
use ropewalk::{ConnectionLimitLayer, Result, framed, reply_fn};

use crate::codec::{MAX_LINE, MAX_VALUE, Memcache};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The size of the cache in MiB; the least recently used items are dropped first
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    /// The most connections served at once
    #[arg(long, default_value_t = 1024)]
    connections: usize,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, memory, connections } = Cli::parse();
    let cache = Arc::new(Mutex::new(cache::Cache::new(memory as usize * 1024 * 1024)));
    let answer = reply_fn(move |request| service::answer(&cache, request));
    let limit = ConnectionLimitLayer::new(connections).refuse_with("SERVER_ERROR too many connections\r\n");
    let server = server.server().memory_budget(96 * 1024 * 1024).layer(limit.make_room(MakeRoom::new()));
    server.serve(framed(Memcache::new(MAX_LINE, MAX_VALUE), answer).on_error(service::refuse)).await
}
