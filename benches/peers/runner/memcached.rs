//! The example `memcached` beside memcached itself, on one thread each.

use std::fmt::Write;
use std::process::Command;

use ropewalk_peers::{Mode, Report, Result};

use crate::Args;
use crate::build::Pair;
use crate::running::{Server, load};
use crate::stats::{cpu, median, ratio, spread};
use crate::table::Cell;

/// Requests each second against memcached's: issue 6 demands it.
const MUST: f64 = 0.9;
const CONNS: u64 = 50;
const SIZE: u64 = 64;

const ROWS: [(&str, u64); 2] = [("memcached-50x1", 1), ("memcached-50x16", 16)];
const OURS: &str = "ours";
const THEIRS: &str = "memcached";

/// Rounds alternate: each begins with the one the last ended with.
pub fn run(args: &Args, pair: &Pair) -> Result<Vec<Cell>> {
    let all = ROWS.iter().flat_map(|(row, _)| [OURS, THEIRS].map(|server| (*row, server)));
    let mut cells: Vec<Cell> =
        all.filter(|(row, server)| args.takes(row, server)).map(|(row, server)| Cell::new(row, server)).collect();
    for round in 0..args.rounds() {
        eprintln!("memcached: round {} of {}", round + 1, args.rounds());
        cells.reverse();
        for cell in &mut cells {
            let report = measure(args, cell, pair);
            cell.add(report);
        }
    }
    if args.rounds() % 2 == 1 {
        cells.reverse();
    }
    Ok(cells)
}

fn measure(args: &Args, cell: &Cell, pair: &Pair) -> Result<Report> {
    let ours = cell.server == OURS;
    let command = |port: u16| {
        let mut command = Command::new(if ours { &pair.ours } else { &pair.theirs });
        if ours {
            command.args(["--workers", "1", "--memory", "64", "--listen", &format!("tcp:127.0.0.1:{port}")]);
        } else {
            // The user counts when it is started by root only; UDP is off.
            command.args([
                "-t",
                "1",
                "-m",
                "64",
                "-U",
                "0",
                "-u",
                "nobody",
                "-l",
                "127.0.0.1",
                "-p",
                &port.to_string(),
            ]);
        }
        command
    };
    let server = Server::start_on_port(&cell.server, command, &[args.server_core()])?;
    let depth = ROWS.iter().find(|(row, _)| *row == cell.row).map_or(1, |(_, depth)| *depth);
    let options = [
        ("--memcached", String::new()),
        ("--conns", CONNS.to_string()),
        ("--depth", depth.to_string()),
        ("--size", SIZE.to_string()),
        ("--secs", args.secs().to_string()),
        ("--warmup", if args.quick { "0.1" } else { "0.3" }.to_owned()),
    ];
    load(&server, Mode::Line, &[args.client_core()], &options)
}

fn rates(cell: &Cell) -> Vec<f64> {
    cell.reports.iter().map(|report| report.per_second).collect()
}

pub fn markdown(cells: &[Cell]) -> String {
    let mut text = format!(
        "# The example `memcached` beside memcached, one thread each\n\nNine `get` to each `set`, values of {SIZE} bytes, \
         {CONNS} connections.\n\n"
    );
    for (row, depth) in ROWS {
        let of = |server| cells.iter().find(|c| c.row == row && c.server == server && !c.reports.is_empty());
        let (ours, theirs) = (of(OURS), of(THEIRS));
        if ours.or(theirs).is_none() {
            continue;
        }
        let _ = write!(
            text,
            "### {CONNS} connections × {depth} (`{row}`)\n\n| server | requests/s | spread | CPU µs/request "
        );
        text.push_str("| server busy | p50 µs | p99 µs | rounds |\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
        for cell in [ours, theirs].into_iter().flatten() {
            let of_each = |value: fn(&Report) -> f64| median(cell.reports.iter().map(value));
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} % | {:.3} | {:.0} % | {:.0} | {:.0} | {} |",
                cell.server,
                median(rates(cell)),
                spread(&rates(cell)) * 100.0,
                median(cpu(&cell.reports)),
                of_each(|report| report.server_busy.unwrap_or_default()) * 100.0,
                of_each(|report| report.p50_us),
                of_each(|report| report.p99_us),
                cell.reports.len(),
            );
        }
        if let Some((ours, theirs)) = ours.zip(theirs) {
            let value = ratio(&rates(ours), &rates(theirs));
            let met = if value >= MUST { "met" } else { "**missed**" };
            let _ = write!(
                text,
                "\nRequests each second: {value:.2} of memcached's, must be at least {MUST:.2}: {met}.\n\n"
            );
        }
    }
    text
}
