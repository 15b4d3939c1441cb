//! Services that wait, against the loops that are written by hand for them: the server's CPU time
//! for a request.

use std::fmt::Write;

use ropewalk_peers::{Mode, Report, Result};
use serde::Serialize;

use crate::Args;
use crate::peers::Peer;
use crate::running::{Server, load};
use crate::stats::{cpu, median, ratio};

/// What a call waits for, as the server names it, in words, and with which threads.
pub const WAITS: [(&str, &str, &[&str]); 7] = [
    ("nothing", "ready at once", &[]),
    ("turn", "one turn of the scheduler (`yield_now`)", &[]),
    ("actor", "an actor (mpsc and oneshot)", &[]),
    ("mutex", "an async mutex that all hold for a turn", &[]),
    ("blocking", "`spawn_blocking`", &[]),
    ("backend", "a backend over TCP, by a pipelined client", &[]),
    ("actor", "an actor, two threads of one runtime", &["--threads", "2"]),
];

/// Our ways, each with the loop by hand that does the same, and what is demanded where calls wait.
pub const WAYS: [(&str, &str, f64); 7] = [
    ("framed", "hand", 1.1),
    ("session", "hand", 1.1),
    ("during", "hand", 1.1),
    ("drive", "hand", 1.1),
    ("concurrent", "hand-concurrent", 1.0),
    ("unordered", "hand-unordered", 1.0),
    ("stream", "hand-stream", 1.1),
];

/// The loops by hand, each once.
pub const HANDS: [&str; 4] = ["hand", "hand-concurrent", "hand-unordered", "hand-stream"];

/// Several calls at once gain nothing where all want one lock; of those that block, threads decide.
fn is_demanded(wait: &str, way: &str) -> bool {
    !(matches!(wait, "mutex" | "blocking") && matches!(way, "concurrent" | "unordered"))
}

/// What one way did with one wait.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    wait: String,
    way: String,
    reports: Vec<Report>,
}

pub fn run(args: &Args) -> Result<Vec<Measured>> {
    let ways = || WAYS.iter().map(|(ours, ..)| *ours).chain(HANDS);
    let cells = WAITS.iter().flat_map(|wait| ways().map(move |way| (wait, way)));
    let cells: Vec<_> = cells.filter(|((wait, ..), way)| args.takes(wait, way)).collect();
    let mut measured: Vec<_> = cells
        .iter()
        .map(|((_, words, _), way)| Measured { wait: (*words).into(), way: (*way).into(), reports: Vec::new() })
        .collect();
    for round in 0..args.rounds() {
        eprintln!("waiting: round {} of {}", round + 1, args.rounds());
        for (measured, ((wait, _, threads), way)) in measured.iter_mut().zip(&cells) {
            // Leaked, a few bytes: a peer's variant lives as long as the program.
            let peer = Peer::waiting(format!("{way}-{wait}").leak()).with_options(threads);
            let cores = if threads.is_empty() { &args.cores[..1] } else { &args.cores[..] };
            let server = Server::start(&peer, Mode::Line, 64, cores)?;
            let mut options = vec![
                ("--conns", "50".to_owned()),
                ("--depth", "64".to_owned()),
                ("--secs", args.secs().to_string()),
                ("--warmup", peer.warmup(args.quick).to_string()),
            ];
            if way.ends_with("unordered") {
                options.push(("--any-order", String::new()));
            }
            measured.reports.push(load(&server, Mode::Line, &[args.client_core()], &options)?);
        }
    }
    Ok(measured)
}

pub fn markdown(measured: &[Measured]) -> String {
    let mut text = String::from("# Services that wait, lines, 50 connections × 64\n");
    for (wait, words, _) in WAITS {
        let of = |way: &str| measured.iter().find(|cell| cell.wait == words && cell.way == way);
        let _ = writeln!(text, "\n## {words}\n\n| ropewalk | CPU µs/request | by hand | ratio | must | |");
        text.push_str("|---|---:|---:|---:|---:|---|\n");
        for (ours, hand, must) in WAYS {
            let Some((ours, hand)) = of(ours).zip(of(hand)) else { continue };
            let ratio = ratio(&cpu(&ours.reports), &cpu(&hand.reports));
            let mark = match ratio <= must {
                _ if !is_demanded(wait, &ours.way) => "",
                true => "must met",
                false => "**missed**",
            };
            let (cost, by_hand) = (median(cpu(&ours.reports)), median(cpu(&hand.reports)));
            let _ = writeln!(text, "| `{}` | {cost:.3} | {by_hand:.3} | {ratio:.2} | {must:.2} | {mark} |", ours.way);
        }
    }
    text
}
