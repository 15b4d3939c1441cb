//! The instructions a server executes for a frame, counted by valgrind's callgrind: as many on a
//! busy machine as on a quiet one.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};

use ropewalk_peers::{Mode, Result};
use serde::Serialize;

use crate::peers::Peer;
use crate::running::{Server, load};
use crate::waiting::{HANDS, WAITS, WAYS};
use crate::{Args, root};

const ROW: &str = "instructions";
const CONNS: u64 = 8;
/// Frames at once, the bytes of one, and the numbers of bursts that are compared: start and end
/// cancel out.
const SHAPES: [(u64, u64, [u64; 2]); 3] = [(64, 64, [100, 1100]), (1, 64, [1000, 9000]), (64, 600, [100, 600])];
/// What is demanded where calls wait, of all ways: as many as by hand, and 5 % more.
const MUST: f64 = 1.05;

/// The work of one server for a frame in each shape; of those that wait in the first shape only.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    server: String,
    frames: Vec<f64>,
}

/// `None` without valgrind.
pub fn run(args: &Args, peers: &[Peer]) -> Result<Option<Vec<Counted>>> {
    if !Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let mut counted = Vec::new();
    for peer in peers.iter().filter(|peer| peer.is_native() && args.takes(ROW, peer.name)) {
        counted.push(count(args, peer, &SHAPES)?);
    }
    for (wait, ..) in WAITS.iter().filter(|wait| is_steady(wait)) {
        for way in WAYS.iter().map(|(ours, ..)| *ours).chain(HANDS).filter(|way| args.takes(wait, way)) {
            // Leaked, a few bytes: a peer's variant lives as long as the program.
            let peer = Peer::waiting(format!("{way}-{wait}").leak());
            counted.push(count(args, &peer, &SHAPES[..1])?);
        }
    }
    Ok(Some(counted))
}

/// Whether the count is the same each time: with threads it depends on which of them is first.
fn is_steady((wait, _, threads): &(&str, &str, &[&str])) -> bool {
    threads.is_empty() && *wait != "blocking"
}

fn count(args: &Args, peer: &Peer, shapes: &[(u64, u64, [u64; 2])]) -> Result<Counted> {
    eprintln!("instructions: {}", peer.name);
    let mut frames = Vec::new();
    for &(depth, size, [few, many]) in shapes {
        let (fewer, more) = (collect(args, peer, depth, size, few)?, collect(args, peer, depth, size, many)?);
        frames.push((more - fewer) / ((many - few) * depth) as f64);
    }
    Ok(Counted { server: peer.name.into(), frames })
}

/// The instructions of a whole run with this many bursts.
fn collect(args: &Args, peer: &Peer, depth: u64, size: u64, bursts: u64) -> Result<f64> {
    let log = root().join("target/peers/callgrind");
    let tool = [
        "valgrind".to_owned(),
        "--tool=callgrind".into(),
        "--callgrind-out-file=/dev/null".into(),
        format!("--log-file={}", log.display()),
    ];
    let server = Server::start_under(&tool, peer, Mode::Line, size, &[args.server_core()])?;
    let mut options = vec![
        ("--conns", CONNS.to_string()),
        ("--depth", depth.to_string()),
        ("--size", size.to_string()),
        ("--warmup", "0".to_owned()),
        ("--bursts", bursts.to_string()),
    ];
    if peer.name.starts_with("unordered") || peer.name.starts_with("hand-unordered") {
        options.push(("--any-order", String::new()));
    }
    load(&server, Mode::Line, &[args.client_core()], &options)?;
    server.stop()?;
    let said = fs::read_to_string(&log)?;
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.ok_or_else(|| "callgrind does not say what it counted".into())
}

pub fn markdown(counted: &[Counted]) -> String {
    let mut text = format!("# Instructions for a line, {CONNS} connections\n\n| server |");
    for (depth, size, _) in SHAPES {
        let _ = write!(text, " {depth} × {size} B |");
    }
    text.push_str("\n|---|---:|---:|---:|\n");
    for Counted { server, frames } in counted.iter().filter(|counted| counted.frames.len() > 1) {
        let frames: Vec<String> = frames.iter().map(|n| format!("{n:.0}")).collect();
        let _ = writeln!(text, "| {server} | {} |", frames.join(" | "));
    }
    text.push_str("\nA copy of more than 2 KiB counts an instruction a byte, though it takes far less time.\n");
    for (wait, words, _) in WAITS.iter().filter(|wait| is_steady(wait)) {
        let of =
            |way: &str| counted.iter().find(|cell| cell.server == format!("{way}-{wait}"))?.frames.first().copied();
        let _ = writeln!(text, "\n## {words}\n\n| ropewalk | instructions | by hand | ratio | must | |");
        text.push_str("|---|---:|---:|---:|---:|---|\n");
        for (ours, hand, _) in WAYS {
            let Some((count, by_hand)) = of(ours).zip(of(hand)) else { continue };
            let ratio = count / by_hand;
            let mark = if ratio <= MUST { "must met" } else { "**missed**" };
            let _ = writeln!(text, "| `{ours}` | {count:.0} | {by_hand:.0} | {ratio:.2} | {MUST:.2} | {mark} |");
        }
    }
    text
}
