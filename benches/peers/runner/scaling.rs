//! The CPU time for a frame over the number of connections and the size of frames.

use std::fmt::Write;

use ropewalk_peers::{Mode, Result};
use serde::Serialize;

use crate::Args;
use crate::peers::Peer;
use crate::running::{Server, load};
use crate::stats::{cpu, median};

const ROW: &str = "scaling";
const SERVERS: [&str; 2] = ["framed", "epoll"];
pub const CONNECTIONS: [u64; 6] = [1, 10, 100, 1000, 5000, 15_000];
pub const SIZES: [u64; 4] = [16, 64, 256, 1024];
const DEPTH: u64 = 16;
const ROUNDS: usize = 3;
/// The seconds of each, of those of the other parts: there are many of them.
const SHARE: f64 = 0.6;
/// How far from the middle a point of ours may be, to call the line flat.
const FLAT: f64 = 0.15;

/// One point of the plot.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    pub server: String,
    pub conns: u64,
    pub size: u64,
    /// Microseconds of CPU time for a frame, in each round
    pub rounds: Vec<f64>,
    /// Their median
    pub cpu_us: f64,
}

pub fn run(args: &Args, peers: &[Peer]) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for size in SIZES {
        for conns in CONNECTIONS {
            for server in SERVERS {
                if peers.iter().any(|peer| peer.name == server) && args.takes(ROW, server) {
                    points.push(Point { server: server.into(), conns, size, rounds: Vec::new(), cpu_us: 0.0 });
                }
            }
        }
    }
    let rounds = args.rounds().min(ROUNDS);
    for round in 0..rounds {
        eprintln!("scaling: round {} of {rounds}", round + 1);
        for point in &mut points {
            let Some(peer) = peers.iter().find(|peer| peer.name == point.server) else { continue };
            // One core for both: on two, a single connection would measure how long one takes to
            // wake the other.
            let cores = [args.server_core()];
            let server = Server::start(peer, Mode::Line, point.size, &cores)?;
            let options = [
                ("--conns", point.conns.to_string()),
                ("--depth", DEPTH.to_string()),
                ("--size", point.size.to_string()),
                ("--secs", (args.secs() * SHARE).to_string()),
                ("--warmup", "0.1".to_owned()),
            ];
            point.rounds.extend(cpu(&[load(&server, Mode::Line, &cores, &options)?]));
        }
    }
    for point in &mut points {
        point.cpu_us = median(point.rounds.iter().copied());
    }
    Ok(points)
}

pub fn markdown(points: &[Point]) -> String {
    let mut text =
        format!("# CPU time for a line in µs, {DEPTH} at once on each connection, server and client on one core\n\n");
    let _ = write!(text, "| server | bytes |");
    for conns in CONNECTIONS {
        let _ = write!(text, " {conns} |");
    }
    let _ = writeln!(text, " furthest from the middle |\n|---|---:|{}---:|", "---:|".repeat(CONNECTIONS.len()));
    for server in SERVERS {
        for size in SIZES {
            let line: Vec<&Point> = points.iter().filter(|p| p.server == server && p.size == size).collect();
            if line.is_empty() {
                continue;
            }
            let _ = write!(text, "| {server} | {size} |");
            for point in &line {
                let _ = write!(text, " {:.3} |", point.cpu_us);
            }
            let _ =
                writeln!(text, " {} |", flatness(&line.iter().map(|point| point.cpu_us).collect::<Vec<_>>(), server));
        }
    }
    for size in SIZES {
        let of = |server: &str, conns| points.iter().find(|p| (&*p.server, p.size, p.conns) == (server, size, conns));
        let over = |conns| Some(of("framed", conns)?.cpu_us / of("epoll", conns)?.cpu_us);
        let ratios: Vec<f64> = CONNECTIONS.into_iter().filter_map(over).collect();
        if ratios.len() == CONNECTIONS.len() {
            let cells: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            let _ = writeln!(text, "| framed / epoll | {size} | {} | {} |", cells.join(" | "), flatness(&ratios, ""));
        }
    }
    text
}

/// How far the value furthest from the middle is from it, and what that is called for ours.
fn flatness(values: &[f64], server: &str) -> String {
    let middle = median(values.iter().copied());
    let off = values.iter().map(|value| (value / middle - 1.0).abs()).fold(0.0, f64::max);
    let word = match server {
        "framed" if off <= FLAT => "flat",
        "framed" => "**not flat**",
        _ => "",
    };
    format!("{:.0} % {word}", off * 100.0)
}
