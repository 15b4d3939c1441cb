//! The server's CPU time for a request, of each server in each workload.

use std::fmt::Write;

use ropewalk_peers::{Report, Result};
use serde::{Deserialize, Serialize};

use crate::Args;
use crate::peers::{Kind, Peer};
use crate::rows::{Bound, LAYERS, NAIVE, P99, ROWS, Row, SHARES};
use crate::running::{Server, load};
use crate::stats::{cpu, median, ratio, spread};

/// Rounds of those nothing is measured against.
pub const REFERENCE_ROUNDS: usize = 3;

/// What one server did in one workload, a report a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub row: String,
    pub server: String,
    pub reports: Vec<Report>,
    /// Why rounds are missing
    pub failures: Vec<String>,
}

impl Cell {
    pub fn new(row: &str, server: &str) -> Self {
        Self { row: row.into(), server: server.into(), reports: Vec::new(), failures: Vec::new() }
    }

    /// Takes in a round.
    pub fn add(&mut self, round: Result<Report>) {
        match round {
            Ok(report) => self.reports.push(report),
            Err(error) => {
                eprintln!("{}/{}: {error}", self.row, self.server);
                self.failures.push(error.to_string());
            }
        }
    }
}

pub fn run(args: &Args, peers: &[Peer]) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for row in &ROWS {
        let wanted = |peer: &&Peer| {
            (!matches!(peer.kind, Kind::Layers | Kind::Codec) || row.layers) && args.takes(row.name, peer.name)
        };
        for peer in peers.iter().filter(wanted) {
            cells.push(Cell::new(row.name, peer.name));
        }
    }
    // A round is a pass over all rows, so that what goes on beside spoils a round of each, and not
    // all of one.
    for round in 0..args.rounds() {
        eprintln!("table: round {} of {}", round + 1, args.rounds());
        for cell in &mut cells {
            let (Some(row), Some(peer)) = (row_of(cell), peers.iter().find(|peer| peer.name == cell.server)) else {
                continue;
            };
            if peer.kind == Kind::Reference && round >= REFERENCE_ROUNDS {
                continue;
            }
            cell.add(measure(args, row, peer));
        }
    }
    Ok(cells)
}

fn row_of(cell: &Cell) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == cell.row)
}

fn measure(args: &Args, row: &Row, peer: &Peer) -> Result<Report> {
    let server = Server::start(peer, row.mode, row.size, &[args.server_core()])?;
    let core = if row.same_core { args.server_core() } else { args.client_core() };
    let options = [
        ("--conns", row.conns.to_string()),
        ("--depth", row.depth.to_string()),
        ("--size", row.size.to_string()),
        ("--secs", args.secs().to_string()),
        ("--warmup", peer.warmup(args.quick).to_string()),
    ];
    load(&server, row.mode, &[core], &options)
}

/// The cells of one row.
pub struct View<'a> {
    cells: Vec<&'a Cell>,
    peers: &'a [Peer],
}

impl<'a> View<'a> {
    pub fn new(cells: &'a [Cell], row: &str, peers: &'a [Peer]) -> Self {
        Self { cells: cells.iter().filter(|cell| cell.row == row && !cell.reports.is_empty()).collect(), peers }
    }

    fn peer(&self, cell: &Cell) -> Option<&'a Peer> {
        self.peers.iter().find(|peer| peer.name == cell.server)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &'a Cell> + use<'a, '_> {
        self.cells.iter().copied().filter(move |cell| self.peer(cell).is_some_and(|peer| peer.kind == kind))
    }

    fn named(&self, name: &str) -> Option<&'a Cell> {
        self.cells.iter().copied().find(|cell| cell.server == name)
    }

    /// The best of those that are measured against.
    fn best(&self, value: impl Fn(&Cell) -> f64) -> Option<&'a Cell> {
        self.of(Kind::Peer).min_by(|a, b| value(a).total_cmp(&value(b)))
    }
}

/// The median CPU time for a request, in microseconds.
pub fn cost(cell: &Cell) -> f64 {
    median(cpu(&cell.reports))
}

fn p99(cell: &Cell) -> f64 {
    median(cell.reports.iter().map(|report| report.p99_us))
}

fn against(cell: &Cell, other: Option<&Cell>) -> Option<f64> {
    Some(ratio(&cpu(&cell.reports), &cpu(&other?.reports)))
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.2}"))
}

/// A table for each workload.
pub fn rows(cells: &[Cell], names: &[(&str, &str)], peers: &[Peer], unit: &str) -> String {
    let mut text = String::new();
    for (name, words) in names {
        let view = View::new(cells, name, peers);
        if view.cells.is_empty() {
            continue;
        }
        let (limit, best) = (view.of(Kind::Limit).next(), view.best(cost));
        let _ =
            write!(text, "### {words} (`{name}`)\n\n| server | CPU µs/{unit} | spread | × bare epoll | × best peer ");
        let _ =
            writeln!(text, "| {unit}s/s | p50 µs | p99 µs | rounds |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        for cell in &view.cells {
            let words = view.peer(cell).map_or("", |peer| peer.words);
            let (rate, p50) = (cell.reports.iter().map(|r| r.per_second), cell.reports.iter().map(|r| r.p50_us));
            let _ = writeln!(
                text,
                "| {words} | {:.3} | {:.0} % | {} | {} | {:.0} | {:.0} | {:.0} | {} |",
                cost(cell),
                spread(&cpu(&cell.reports)) * 100.0,
                shown(against(cell, limit)),
                shown(against(cell, best)),
                median(rate),
                median(p50),
                p99(cell),
                cell.reports.len(),
            );
        }
        text.push('\n');
    }
    text
}

fn mark(value: Option<f64>, bound: Bound) -> String {
    let word = match value {
        None => "not measured",
        Some(value) if value <= bound.aim => "aim met",
        Some(value) if value <= bound.must => "must met, aim missed",
        Some(_) => "**missed**",
    };
    format!("{} | {:.2} / {:.2} | {word}", shown(value), bound.must, bound.aim)
}

/// What is demanded, and whether it is so.
fn demands(cells: &[Cell], peers: &[Peer]) -> String {
    let mut text = String::from("| workload | ours | against | ratio | must / aim | |\n|---|---|---|---:|---:|---|\n");
    for row in &ROWS {
        let view = View::new(cells, row.name, peers);
        let (limit, best) = (view.of(Kind::Limit).next(), view.best(cost));
        for cell in view.of(Kind::Ours) {
            let mut line = |other: &str, marked: String| {
                let _ = writeln!(text, "| {} | {} | {other} | {marked} |", row.name, cell.server);
            };
            line(best.map_or("the best peer", |best| &best.server), mark(against(cell, best), row.peer));
            line("bare epoll", mark(against(cell, limit), row.limit));
            let fastest = view.best(p99);
            let tail = fastest.map(|other| p99(cell) / p99(other));
            let other = fastest.map_or_else(String::new, |other| other.server.clone());
            line(&format!("p99 of {other}"), mark(tail, Bound { must: P99, aim: 1.0 }));
            if row.depth >= 64 {
                let naive = against(cell, view.named("tokio-naive"));
                line("tokio-naive", mark(naive, Bound { must: NAIVE, aim: NAIVE }));
            }
        }
        for cell in view.of(Kind::Layers) {
            let marked = mark(against(cell, view.named("framed")), Bound { must: LAYERS, aim: LAYERS });
            let _ = writeln!(text, "| {} | {} | framed | {marked} |", row.name, cell.server);
        }
        if let Some(cell) = view.named("codec-shares") {
            let marked = mark(against(cell, view.named("codec-copies")), Bound { must: SHARES, aim: 1.0 });
            let _ = writeln!(text, "| {} | {} | codec-copies | {marked} |", row.name, cell.server);
        }
    }
    text
}

pub fn markdown(cells: &[Cell], peers: &[Peer]) -> String {
    let names: Vec<_> = ROWS.iter().map(|row| (row.name, row.words)).collect();
    format!(
        "# CPU time of the server for a request\n\n{}## What is demanded\n\n{}",
        rows(cells, &names, peers, "request"),
        demands(cells, peers)
    )
}
