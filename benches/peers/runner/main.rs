//! Measures ropewalk and its peers, prints the results, and writes them as JSON, markdown and SVG.

mod accept;
mod build;
mod chart;
mod clients;
mod fanout;
mod instructions;
mod machine;
mod memcached;
mod memory;
mod million;
mod peers;
mod rows;
mod running;
mod scaling;
mod stats;
mod svg;
mod syscalls;
mod table;
mod threads;
mod tls;
mod waiting;

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use ropewalk_peers::{Result, raise_descriptor_limit};
use serde::{Deserialize, Serialize};

use self::machine::Machine;
use self::peers::Peer;
use self::table::Cell;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The server's CPU time for a request, and its latency
    Table,
    /// Connect, one line, close
    Accept,
    /// Lines and handshakes over TLS, against a bare tokio-rustls loop
    Tls,
    /// The example `memcached` against memcached itself
    Memcached,
    /// Idle connections
    Memory,
    /// System calls of a burst
    Syscalls,
    /// From one connection to 15 000, from 16 bytes to 1 KiB
    Scaling,
    /// Services that wait, against loops by hand
    Waiting,
    /// What one connection sends and all receive
    Fanout,
    /// Instructions of a frame, by callgrind
    Instructions,
    /// One thread against several
    Threads,
    /// As many idle connections as the machine allows
    Million,
    /// Clients: the CPU time of a call, beside one by hand and those of redis
    Clients,
}

/// Measures ropewalk beside its peers.
///
/// All parts except `waiting`, `fanout`, `instructions`, `threads`, `million` and `clients`, if no
/// part is named. A peer that is not installed is left out, with a message.
#[derive(Debug, Parser)]
#[command(name = "benches/peers/run")]
struct Args {
    /// What to measure
    part: Vec<Part>,
    /// How often each thing is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
    /// Only these: `ROW`, `/SERVER` or `ROW/SERVER`; may be given again
    #[arg(long)]
    only: Vec<String>,
    /// One short round of little: to see that all of it works
    #[arg(long)]
    quick: bool,
    /// Where results go: benches/peers/results, or under its target folder with --quick or --only
    #[arg(long)]
    out: Option<PathBuf>,
    /// The cores of the server and of the load generator
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cores: Vec<usize>,
    /// The most connections of `million`
    #[arg(long, default_value_t = 1_000_000)]
    conns: usize,
    /// Build only ropewalk's servers and the load generator, and measure only the peers that are
    /// built with them
    #[arg(long)]
    ours: bool,
    /// Measure nothing: draw the bars again of the table that was measured last
    #[arg(long)]
    redraw: bool,
}

impl Args {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    fn secs(&self) -> f64 {
        if self.quick { 0.2 } else { self.secs }
    }

    fn wants(&self, part: Part) -> bool {
        let asked_for = matches!(
            part,
            Part::Waiting | Part::Fanout | Part::Instructions | Part::Threads | Part::Million | Part::Clients
        );
        if self.part.is_empty() { !asked_for } else { self.part.contains(&part) }
    }

    /// Whether a part is wanted that has no servers of its own.
    fn wants_peers(&self) -> bool {
        let own = |part| matches!(part, Part::Tls | Part::Memcached | Part::Waiting | Part::Fanout | Part::Clients);
        Part::value_variants().iter().any(|&part| !own(part) && self.wants(part))
    }

    /// Whether --only lets this through.
    fn takes(&self, row: &str, server: &str) -> bool {
        let fits = |pattern: &String| {
            let (rows, servers) = pattern.split_once('/').unwrap_or((pattern, ""));
            (rows.is_empty() || rows == row) && (servers.is_empty() || servers == server)
        };
        self.only.is_empty() || self.only.iter().any(fits)
    }

    fn out(&self) -> PathBuf {
        let partial = self.quick || self.ours || !self.only.is_empty();
        self.out.clone().unwrap_or_else(|| root().join(if partial { "target/peers/results" } else { "results" }))
    }

    fn server_core(&self) -> usize {
        self.cores[0]
    }

    fn client_core(&self) -> usize {
        self.cores[self.cores.len() - 1]
    }
}

/// The folder of this package.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn main() -> Result {
    let mut args = Args::parse();
    if args.redraw {
        return redraw(&args.out());
    }
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        eprintln!("one core only: the server and the load generator share it");
        args.cores = vec![0];
    }
    raise_descriptor_limit();
    build::generator()?;
    let peers = if args.wants_peers() { build::all(args.ours) } else { Vec::new() };
    let tls_peers = if args.wants(Part::Tls) { build::all_tls(args.ours)? } else { Vec::new() };
    let machine = Machine::here(peers.iter().chain(&tls_peers))?;
    let out = args.out();
    std::fs::create_dir_all(&out)?;
    println!("{machine}\n");
    let mut failures = cells(&args, &peers, &machine, &out)?;
    if args.wants(Part::Tls) {
        let measured = tls::run(&args, &tls_peers)?;
        failures += write_cells(&out, "tls", &machine, &measured, &tls::markdown(&measured, &tls_peers))?;
    }
    if args.wants(Part::Memcached) {
        failures += beside_memcached(&args, &out, &machine)?;
    }
    if args.wants(Part::Clients) {
        let measured = clients::run(&args)?;
        write(&out, "clients", &machine, &measured, &clients::markdown(&measured))?;
        failures += measured.iter().map(|cell| cell.failures.len()).sum::<usize>();
    }
    others(&args, &peers, &machine, &out)?;
    println!("written to {}", out.display());
    if failures == 0 { Ok(()) } else { Err(format!("{failures} measurements failed").into()) }
}

/// What costs a request and a connection, all servers side by side; how many measurements failed.
fn cells(args: &Args, peers: &[Peer], machine: &Machine, out: &Path) -> Result<usize> {
    let mut failures = 0;
    if args.wants(Part::Table) {
        let measured = table::run(args, peers)?;
        failures += write_cells(out, "table", machine, &measured, &table::markdown(&measured, peers))?;
        if let Some(chart) = chart::bars(&measured, peers) {
            std::fs::write(out.join("table.svg"), chart)?;
        }
    }
    if args.wants(Part::Accept) {
        let measured = accept::run(args, peers)?;
        failures += write_cells(out, "accept", machine, &measured, &accept::markdown(&measured, peers))?;
    }
    Ok(failures)
}

/// System calls, memory, and how it scales.
fn others(args: &Args, peers: &[Peer], machine: &Machine, out: &Path) -> Result {
    if args.wants(Part::Syscalls) {
        match syscalls::run(args, peers)? {
            Some(measured) => write(out, "syscalls", machine, &measured, &syscalls::markdown(&measured))?,
            None => eprintln!("left out: system calls, as strace is not installed"),
        }
    }
    if args.wants(Part::Memory) {
        let measured = memory::run(args, peers)?;
        write(out, "memory", machine, &measured, &memory::markdown(&measured))?;
    }
    if args.wants(Part::Scaling) {
        let measured = scaling::run(args, peers)?;
        write(out, "scaling", machine, &measured, &scaling::markdown(&measured))?;
        std::fs::write(out.join("scaling.svg"), chart::scaling(&measured))?;
    }
    if args.wants(Part::Waiting) {
        let measured = waiting::run(args)?;
        write(out, "waiting", machine, &measured, &waiting::markdown(&measured))?;
    }
    if args.wants(Part::Fanout) {
        let measured = fanout::run(args)?;
        write(out, "fanout", machine, &measured, &fanout::markdown(&measured))?;
    }
    if args.wants(Part::Instructions) {
        match instructions::run(args, peers)? {
            Some(counted) => write(out, "instructions", machine, &counted, &instructions::markdown(&counted))?,
            None => eprintln!("left out: instructions, as valgrind is not installed"),
        }
    }
    if args.wants(Part::Threads) {
        let measured = threads::run(args, peers)?;
        write(out, "threads", machine, &measured, &threads::markdown(&measured))?;
    }
    if args.wants(Part::Million) {
        let measured = million::run(args, peers)?;
        write(out, "million", machine, &measured, &million::markdown(&measured))?;
    }
    Ok(())
}

fn redraw(out: &Path) -> Result {
    #[derive(Deserialize)]
    struct Table {
        measured: Vec<Cell>,
    }
    let table: Table = serde_json::from_slice(&std::fs::read(out.join("table.json"))?)?;
    if let Some(chart) = chart::bars(&table.measured, &Peer::all()) {
        std::fs::write(out.join("table.svg"), chart)?;
    }
    Ok(())
}

/// Measures the example beside the original, if that is installed; how often it failed.
fn beside_memcached(args: &Args, out: &Path, machine: &Machine) -> Result<usize> {
    let pair = match build::memcached() {
        Ok(pair) => pair,
        Err(why) => {
            eprintln!("left out: memcached, {why}");
            return Ok(0);
        }
    };
    let measured = memcached::run(args, &pair)?;
    write_cells(out, "memcached", &machine.with(&pair.version), &measured, &memcached::markdown(&measured))
}

/// The same as `write`, of servers under load; how often they failed.
fn write_cells(out: &Path, name: &str, machine: &Machine, cells: &[Cell], markdown: &str) -> Result<usize> {
    write(out, name, machine, &cells, markdown)?;
    Ok(cells.iter().map(|cell| cell.failures.len()).sum())
}

/// Prints a part, and writes it down with the machine it was measured on.
fn write(out: &Path, name: &str, machine: &Machine, measured: &impl Serialize, markdown: &str) -> Result {
    let whole = serde_json::json!({ "machine": machine, "measured": measured });
    std::fs::write(out.join(name).with_extension("json"), serde_json::to_string_pretty(&whole)? + "\n")?;
    let text = format!("{markdown}\n{machine}\n");
    std::fs::write(out.join(name).with_extension("md"), text)?;
    println!("{markdown}");
    Ok(())
}
