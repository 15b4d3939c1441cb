//! One thread, several that share a runtime, or workers with one each. Server and load generator
//! have all cores between them, so this tells what several threads cost, and what they gain only
//! where the load generator leaves them room.

use std::fmt::Write;

use ropewalk_peers::{Mode, Report, Result};
use serde::Serialize;

use crate::Args;
use crate::peers::Peer;
use crate::running::{Server, load};
use crate::stats::{cpu, median};

const ROW: &str = "threads";
const WAYS: [(&str, &[&str]); 3] =
    [("one thread", &[]), ("two threads of one runtime", &["--threads", "2"]), ("two workers", &["--workers", "2"])];
const LOADS: [(&str, &[&str]); 3] = [
    ("lines, 50 connections × 64", &["--depth", "64"]),
    ("lines, 50 connections × 1", &["--depth", "1"]),
    ("connect, one line, close", &["--accept"]),
];

/// What one way did under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    load: String,
    way: String,
    reports: Vec<Report>,
}

pub fn run(args: &Args, peers: &[Peer]) -> Result<Vec<Measured>> {
    let ours = peers.iter().find(|peer| peer.name == "framed" && args.takes(ROW, peer.name));
    let mut measured = Vec::new();
    for (load, _) in LOADS {
        for (way, _) in WAYS {
            measured.push(Measured { load: load.into(), way: way.into(), reports: Vec::new() });
        }
    }
    for round in 0..args.rounds() {
        eprintln!("threads: round {} of {}", round + 1, args.rounds());
        let cells = LOADS.iter().flat_map(|load| WAYS.iter().map(move |way| (load, way)));
        for (measured, ((_, options), (_, threads))) in measured.iter_mut().zip(cells) {
            let Some(ours) = ours else { continue };
            let peer = ours.with_options(threads);
            let server = Server::start(&peer, Mode::Line, 64, &args.cores)?;
            let (secs, warmup) = (args.secs().to_string(), peer.warmup(args.quick).to_string());
            let mut all = vec![("--conns", "50".to_owned()), ("--secs", secs), ("--warmup", warmup)];
            all.extend(options.chunks(2).map(|option| (option[0], option.get(1).unwrap_or(&"").to_string())));
            measured.reports.push(load(&server, Mode::Line, &args.cores, &all)?);
        }
    }
    measured.retain(|measured| !measured.reports.is_empty());
    Ok(measured)
}

pub fn markdown(measured: &[Measured]) -> String {
    let mut text = String::from("# Threads, server and load generator on the same cores\n\n");
    text.push_str("| load | server | CPU µs each | each second | p99 µs |\n|---|---|---:|---:|---:|\n");
    for Measured { load, way, reports } in measured {
        let (rate, p99) = (reports.iter().map(|r| r.per_second), reports.iter().map(|r| r.p99_us));
        let (cost, rate, p99) = (median(cpu(reports)), median(rate), median(p99));
        let _ = writeln!(text, "| {load} | {way} | {cost:.3} | {rate:.0} | {p99:.0} |");
    }
    text
}
