//! Try it: `cargo run --example hardened`, then `nc 127.0.0.1 8007`: lines come back, from a server fit for a public port.

use std::{fs, path::PathBuf, time::Duration};

use clap::Parser;
use ropewalk::LogLayer;
use ropewalk::cli::ServerArgs;
use ropewalk::layer::LifetimeLayer;
use ropewalk::layer::MakeRoom;
use ropewalk::layer::accept_rate::{AcceptRateLayer, Rate};
use ropewalk::layer::{AccessLayer, AccessRules, BandwidthLayer, CatchPanicLayer};
use ropewalk::{Bytes, ConnectionLimitLayer, Error, Lines, PeerLimitLayer, Reply, Result, framed, service_fn};
use ropewalk::{CallDeadlineLayer, FrameRateLayer};
use tower::ServiceBuilder;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The most connections, in total and for one address
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    #[arg(long, default_value_t = 50)]
    per_peer: usize,
    /// Which networks may connect: a line each, as in "deny 192.0.2.0/24"
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,
}

async fn answer(line: Bytes) -> Result<Reply<Bytes>> {
    Ok(Reply::one(line))
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    let rules = match &cli.access {
        Some(file) => fs::read_to_string(file)?.parse().map_err(Error::other)?,
        None => AccessRules::allow_all(),
    };
    let (second, mib) = (Duration::from_secs(1), 1024 * 1024);
    let each_line = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(FrameRateLayer::new(1000, second))
        .layer(CallDeadlineLayer::new(5 * second))
        .service(service_fn(answer));
    let lines = framed(Lines::any().max(4096), each_line).write_stall(10 * second);
    cli.server
        .idle_or(60 * second)
        .server()
        .layer(LogLayer::new())
        .layer(AccessLayer::new(rules))
        .layer(AcceptRateLayer::new().per_peer(Rate::new(20, second).burst(60)).of_all(Rate::new(2000, second)))
        .layer(ConnectionLimitLayer::new(cli.connections).refuse_with("busy\r\n").make_room(MakeRoom::new()))
        .layer(PeerLimitLayer::new(cli.per_peer).refuse_with("too many connections of your address\r\n"))
        .layer(LifetimeLayer::new(3600 * second).jitter(600 * second))
        .layer(BandwidthLayer::new().read(mib).write(mib).write_of_all(100 * mib))
        .serve(lines)
        .await
}
