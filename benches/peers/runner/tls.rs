//! TLS: lines, and handshakes, of ours and of a bare tokio-rustls loop.

use std::fmt::Write;

use ropewalk_peers::{Mode, Report, Result};

use crate::Args;
use crate::peers::{Kind, Peer};
use crate::running::{Server, load};
use crate::stats::{cpu, ratio};
use crate::table::{Cell, REFERENCE_ROUNDS, rows};

/// Ours against the bare loop: issue 5 demands it.
const MUST: f64 = 1.05;

/// A workload.
struct Row {
    name: &'static str,
    words: &'static str,
    unit: &'static str,
    conns: u64,
    /// Lines at once; `None` where each connection has one line and is closed.
    depth: Option<u64>,
}

const ROWS: [Row; 3] = [
    Row {
        name: "tls-lines-50x64",
        words: "TLS 1.3, lines, 50 connections × 64",
        unit: "request",
        conns: 50,
        depth: Some(64),
    },
    Row {
        name: "tls-lines-50x1",
        words: "TLS 1.3, lines, 50 connections × 1",
        unit: "request",
        conns: 50,
        depth: Some(1),
    },
    Row {
        name: "tls-handshakes",
        words: "TLS 1.3, connect, whole handshake, one line, close; 64 at once",
        unit: "handshake",
        conns: 64,
        depth: None,
    },
];

pub fn run(args: &Args, peers: &[Peer]) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for row in &ROWS {
        cells.extend(
            peers.iter().filter(|peer| args.takes(row.name, peer.name)).map(|peer| Cell::new(row.name, peer.name)),
        );
    }
    for round in 0..args.rounds() {
        eprintln!("tls: round {} of {}", round + 1, args.rounds());
        for cell in &mut cells {
            let row = ROWS.iter().find(|row| row.name == cell.row);
            let peer = peers.iter().find(|peer| peer.name == cell.server);
            let Some((row, peer)) = row.zip(peer) else { continue };
            if peer.kind != Kind::Reference || round < REFERENCE_ROUNDS {
                cell.add(measure(args, row, peer));
            }
        }
    }
    Ok(cells)
}

fn measure(args: &Args, row: &Row, peer: &Peer) -> Result<Report> {
    let server = Server::start(peer, Mode::Line, 64, &[args.server_core()])?;
    let options = [
        row.depth.map_or(("--accept", String::new()), |depth| ("--depth", depth.to_string())),
        ("--conns", row.conns.to_string()),
        ("--secs", args.secs().to_string()),
        ("--warmup", peer.warmup(args.quick).to_string()),
    ];
    load(&server, Mode::Line, &[args.client_core()], &options)
}

pub fn markdown(cells: &[Cell], peers: &[Peer]) -> String {
    let mut text = String::from("# TLS\n\n");
    for row in &ROWS {
        text.push_str(&rows(cells, &[(row.name, row.words)], peers, row.unit));
    }
    text.push_str(
        "## What is demanded\n\n| workload | ours | against | ratio | must | |\n|---|---|---|---:|---:|---|\n",
    );
    for row in &ROWS {
        let measured = |kind| {
            cells.iter().filter(move |cell| {
                let is_kind = peers.iter().any(|peer| peer.name == cell.server && peer.kind == kind);
                cell.row == row.name && is_kind && !cell.reports.is_empty()
            })
        };
        let Some(ours) = measured(Kind::Ours).next() else { continue };
        for bare in measured(Kind::Peer) {
            let ratio = ratio(&cpu(&ours.reports), &cpu(&bare.reports));
            let mark = if ratio <= MUST { "must met" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {ratio:.2} | {MUST:.2} | {mark} |",
                row.name, ours.server, bare.server
            );
        }
    }
    text
}
