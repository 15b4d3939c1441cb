//! Connect, one line, close: the server's CPU time for a connection.

use std::fmt::Write;

use ropewalk_peers::{Mode, Result};

use crate::Args;
use crate::peers::{Kind, Peer};
use crate::running::{Server, load};
use crate::stats::{cpu, ratio};
use crate::table::{Cell, cost, rows};

const ROW: &str = "accept";
/// Connections at once.
const AT_ONCE: usize = 64;

pub fn run(args: &Args, peers: &[Peer]) -> Result<Vec<Cell>> {
    let mut cells: Vec<Cell> =
        peers.iter().filter(|peer| args.takes(ROW, peer.name)).map(|peer| Cell::new(ROW, peer.name)).collect();
    for round in 0..args.rounds() {
        eprintln!("accept: round {} of {}", round + 1, args.rounds());
        for cell in &mut cells {
            let Some(peer) = peers.iter().find(|peer| peer.name == cell.server) else { continue };
            let server = Server::start(peer, Mode::Line, 64, &[args.server_core()])?;
            let options = [
                ("--accept", String::new()),
                ("--conns", AT_ONCE.to_string()),
                ("--secs", args.secs().to_string()),
                ("--warmup", peer.warmup(args.quick).to_string()),
            ];
            cell.add(load(&server, Mode::Line, &[args.client_core()], &options));
        }
    }
    Ok(cells)
}

pub fn markdown(cells: &[Cell], peers: &[Peer]) -> String {
    let words = format!("connect, one line, close; {AT_ONCE} at once");
    let mut text = format!("# Accepting\n\n{}", rows(cells, &[(ROW, &words)], peers, "connection"));
    let kind = |cell: &Cell| peers.iter().find(|peer| peer.name == cell.server).map(|peer| peer.kind);
    let cells: Vec<&Cell> = cells.iter().filter(|cell| !cell.reports.is_empty()).collect();
    let bare = cells.iter().find(|cell| cell.server == "tokio-naive");
    let is_peer = |cell: &&&Cell| kind(cell) == Some(Kind::Peer) || cell.server == "tokio-naive";
    let best = cells.iter().filter(is_peer).min_by(|a, b| cost(a).total_cmp(&cost(b)));
    for cell in cells.iter().filter(|cell| matches!(kind(cell), Some(Kind::Ours | Kind::Layers))) {
        for (words, other) in [("tokio's accept-spawn loop with a Framed", bare), ("the best peer", best)] {
            let Some(other) = other else { continue };
            let value = ratio(&cpu(&cell.reports), &cpu(&other.reports));
            let met = if value <= 1.0 { "met" } else { "**missed**" };
            let _ = writeln!(text, "- {} against {words}: {value:.2}, must be at most 1.00: {met}", cell.server);
        }
    }
    text
}
