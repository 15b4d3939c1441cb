//! What one connection sends and all receive: the server's CPU time and system calls for a line
//! that is delivered.

use std::fmt::Write;

use ropewalk_peers::{Mode, Report, Result};
use serde::Serialize;

use crate::peers::Peer;
use crate::running::{Server, load};
use crate::stats::{cpu, median, ratio};
use crate::{Args, syscalls};

/// The servers, with words for each.
const WAYS: [(&str, &str); 4] = [
    ("room", "ropewalk's `Room`"),
    ("broadcast", "ropewalk's session, tokio's `broadcast` and `select!`"),
    ("hand", "by hand: a task for each connection that drains a channel"),
    ("epoll", "bare epoll"),
];
/// Connections, lines at once, and the numbers of bursts whose system calls are compared.
const SHAPES: [(u64, u64, [u64; 2]); 4] =
    [(1000, 1, [20, 70]), (1000, 10, [20, 70]), (10_000, 1, [4, 12]), (10_000, 10, [4, 12])];
/// What is demanded of CPU time against the server by hand; and with 1000 connections in bursts of
/// ten, against `broadcast`, and of writes for a line.
const MUST: f64 = 1.1;
const OF_BROADCAST: f64 = 0.25;
const WRITES: f64 = 0.11;

/// What one server did in one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    conns: u64,
    depth: u64,
    way: String,
    reports: Vec<Report>,
    /// For a delivered line: writes, and all system calls. `None` without strace.
    calls: Option<(f64, f64)>,
}

pub fn run(args: &Args) -> Result<Vec<Measured>> {
    let cells = SHAPES.iter().flat_map(|shape| WAYS.iter().map(move |(way, _)| (shape, *way)));
    let cells: Vec<_> = cells.filter(|((conns, depth, _), way)| args.takes(&format!("{conns}x{depth}"), way)).collect();
    let mut measured = Vec::new();
    for ((conns, depth, bursts), way) in &cells {
        let calls = count(args, &Peer::fanout(way), *conns, *depth, *bursts)?;
        measured.push(Measured { conns: *conns, depth: *depth, way: (*way).into(), reports: Vec::new(), calls });
    }
    for round in 0..args.rounds() {
        eprintln!("fanout: round {} of {}", round + 1, args.rounds());
        for (measured, ((conns, depth, _), way)) in measured.iter_mut().zip(&cells) {
            let server = Server::start(&Peer::fanout(way), Mode::Line, 64, &[args.server_core()])?;
            let mut options = options(*conns, *depth);
            options.extend([("--secs", args.secs().to_string()), ("--warmup", "0.1".into())]);
            measured.reports.push(load(&server, Mode::Line, &[args.client_core()], &options)?);
        }
    }
    Ok(measured)
}

fn options(conns: u64, depth: u64) -> Vec<(&'static str, String)> {
    vec![("--fanout", String::new()), ("--conns", conns.to_string()), ("--depth", depth.to_string())]
}

/// The writes and all system calls for a delivered line, by strace: the difference of two runs.
fn count(args: &Args, peer: &Peer, conns: u64, depth: u64, [few, many]: [u64; 2]) -> Result<Option<(f64, f64)>> {
    if !syscalls::are_countable() {
        return Ok(None);
    }
    let collect = |bursts: u64| {
        let mut options = options(conns, depth);
        options.extend([("--warmup", "0".into()), ("--bursts", bursts.to_string())]);
        let (calls, _) = syscalls::count(args, peer, &options)?;
        let writes: f64 = ["write", "writev", "sendto", "sendmsg"].iter().filter_map(|name| calls.get(*name)).sum();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((writes, calls.values().sum::<f64>()))
    };
    let (less, more) = (collect(few)?, collect(many)?);
    let lines = ((many - few) * depth * conns) as f64;
    Ok(Some(((more.0 - less.0) / lines, (more.1 - less.1) / lines)))
}

pub fn markdown(measured: &[Measured]) -> String {
    let mut text = String::from("# A line that all receive\n");
    for (conns, depth, _) in SHAPES {
        let of = |way: &str| measured.iter().find(|cell| (cell.conns, cell.depth, &*cell.way) == (conns, depth, way));
        if WAYS.iter().all(|(way, _)| of(way).is_none()) {
            continue;
        }
        let _ = writeln!(text, "\n## {conns} connections, {depth} lines at once\n");
        text.push_str("| server | CPU µs/line | to by hand | to broadcast | to epoll | writes/line | calls/line | |\n");
        text.push_str("|---|---:|---:|---:|---:|---:|---:|---|\n");
        for (way, words) in WAYS {
            let Some(cell) = of(way) else { continue };
            let to = |other: &str| Some(ratio(&cpu(&cell.reports), &cpu(&of(other)?.reports)));
            let shown = |ratio: Option<f64>| ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"));
            let (writes, calls) = cell.calls.map_or((f64::NAN, f64::NAN), |calls| calls);
            let in_bursts = (conns, depth) == (1000, 10);
            let of_broadcast = to("broadcast").is_none_or(|ratio| ratio <= OF_BROADCAST);
            let mark = match (way, to("hand")) {
                ("room", Some(ratio)) if ratio <= MUST && (!in_bursts || writes <= WRITES && of_broadcast) => {
                    "must met"
                }
                ("room", Some(_)) => "**missed**",
                _ => "",
            };
            let _ = writeln!(
                text,
                "| {words} | {:.3} | {} | {} | {} | {writes:.3} | {calls:.3} | {mark} |",
                median(cpu(&cell.reports)),
                shown(to("hand")),
                shown(to("broadcast")),
                shown(to("epoll")),
            );
        }
    }
    text
}
