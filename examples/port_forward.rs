//! Try it: `cargo run --example port_forward -- --to 127.0.0.1:8099`, then `nc 127.0.0.1 8007`; and before that, at 8099,
//! `cargo run --example capped_echo -- --listen 'proxy+tcp:127.0.0.1:8099?trust=127.0.0.1'`, which takes PROXY headers.

use std::time::Duration;

use clap::Parser;
use ropewalk::Result;
use ropewalk::cli::ServerArgs;
use ropewalk::client::forward;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// Where connections are forwarded to; if a name has several addresses, to the first one that answers
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// The version of the PROXY header that names the client
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    proxy: u8,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, to, proxy } = Cli::parse();
    let server = server.idle_or(Duration::from_secs(300));
    let forward = forward(format!("proxy+tcp:{to}?header={proxy}"))?.idle(server.idle());
    server.server().serve(forward).await
}
