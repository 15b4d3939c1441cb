//! The load generator: one thread, bounded in time and number, for servers on the loopback device
//! only. Every byte of every answer is compared with what was sent; one that differs, or a server
//! that is silent, is an error.

mod accept;
mod client;
mod fanout;
mod idle;
mod load;
mod memcached;
mod transport;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ropewalk_peers::{Mode, Pattern, Result, raise_descriptor_limit};

use self::client::Target;
use self::transport::Connector;

/// Sends frames to an echo server and checks the answers.
///
/// Without --accept and --idle: bursts of --depth frames on each of --conns connections, the next
/// when the last is answered.
#[derive(Debug, Parser)]
pub struct Args {
    /// The server's address; a loopback one
    #[arg(long)]
    addr: SocketAddr,
    /// How frames are found
    #[arg(long, default_value = "line")]
    mode: Mode,
    /// Connections; with --accept, how many at once
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    conns: u64,
    /// Frames sent at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    depth: u64,
    /// Bytes of content in a frame
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    size: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
    /// Seconds before measuring
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// Measure this many bursts (or connections) instead of --secs
    #[arg(long)]
    bursts: Option<u64>,
    /// The server's process, to tell its CPU time and memory
    #[arg(long)]
    server_pid: Option<u32>,
    /// Connect, one frame, close, again and again
    #[arg(long, conflicts_with_all = ["idle", "memcached"])]
    accept: bool,
    /// Nine `get` to each `set` of memcached's text protocol, on keys that are stored first; --size
    /// is that of the values
    #[arg(long, conflicts_with = "idle")]
    memcached: bool,
    /// Bursts of --depth frames on one connection, which all of them receive
    #[arg(long, conflicts_with_all = ["accept", "idle", "memcached"])]
    fanout: bool,
    /// Open connections, one frame on each, and hold them
    #[arg(long)]
    idle: bool,
    /// With --idle: then a frame of this many bytes on each connection, and 5 s for the server to
    /// free its memory
    #[arg(long, requires = "idle")]
    big: Option<u64>,
    /// With --idle: after each phase wait for a line on the standard input
    #[arg(long, requires = "idle")]
    step: bool,
    /// The first byte after 127 of the addresses to connect from, so that several generators use
    /// other ports
    #[arg(long, default_value_t = 1)]
    net: u8,
    /// Over TLS, trusting the certificate in this PEM file
    #[arg(long)]
    tls: Option<PathBuf>,
    /// The answers of a burst come in any order; their lines are compared
    #[arg(long)]
    any_order: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result {
    let args = Args::parse();
    // Load on anybody else's machine is nothing this program is for.
    if !args.addr.ip().is_loopback() {
        return Err("only servers on the loopback device are measured".into());
    }
    if args.secs + args.warmup > 600.0 {
        return Err("ten minutes at most".into());
    }
    raise_descriptor_limit();
    let pattern = Pattern::new(args.mode, args.size as usize, args.depth as usize);
    if args.idle {
        return idle::run(&args, &pattern);
    }
    let report = match (args.accept, args.memcached) {
        (true, _) => accept::run(&args, &pattern)?,
        (_, true) => memcached::run(&args)?,
        _ if args.fanout => fanout::run(&args, &pattern)?,
        _ => load::run(&args, &pattern)?,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report:#?}");
    }
    Ok(())
}

impl Args {
    fn target(&self) -> Result<Target> {
        let tls = self.tls.as_deref().map(Connector::new).transpose()?;
        Ok(Target { addr: self.addr, net: self.net, tls })
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup.max(0.0))
    }

    /// Whether so much is enough.
    fn is_over(&self, elapsed: Duration, completed: u64) -> bool {
        match self.bursts {
            Some(bursts) => completed >= bursts,
            None => elapsed.as_secs_f64() >= self.secs,
        }
    }
}
