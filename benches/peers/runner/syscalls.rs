//! The system calls of a burst, counted by strace: exact, whatever else the machine does.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use ropewalk_peers::{Mode, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::peers::{Kind, Peer};
use crate::running::{Server, load};
use crate::{Args, root};

const ROW: &str = "syscalls";
const DEPTHS: [u64; 2] = [1, 64];
/// What the begin and the end of a run cost is in both, and goes with the difference.
const FEW: u64 = 200;
const MANY: u64 = 1200;

/// What one server calls in one burst.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    server: String,
    depth: u64,
    ours: bool,
    calls: BTreeMap<String, f64>,
    /// Of all calls
    failed: f64,
}

/// None where there is no strace.
pub fn run(args: &Args, peers: &[Peer]) -> Result<Option<Vec<Counted>>> {
    if !Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let mut counted = Vec::new();
    for peer in peers.iter().filter(|peer| args.takes(ROW, peer.name)) {
        for depth in DEPTHS {
            let (mut many, mut failed) = count(args, peer, depth, MANY)?;
            let (few, failed_of_few) = count(args, peer, depth, FEW)?;
            failed -= failed_of_few;
            for (call, n) in few {
                *many.entry(call).or_default() -= n;
            }
            let calls = many.into_iter().map(|(call, n)| (call, n / (MANY - FEW) as f64));
            let calls = calls.filter(|(_, n)| n.abs() > 0.004).collect();
            let ours = matches!(peer.kind, Kind::Ours | Kind::Layers);
            counted.push(Counted {
                server: peer.name.into(),
                depth,
                ours,
                calls,
                failed: failed / (MANY - FEW) as f64,
            });
        }
    }
    Ok(Some(counted))
}

/// The calls while so many bursts are answered on one connection, and how many of them failed.
fn count(args: &Args, peer: &Peer, depth: u64, bursts: u64) -> Result<(BTreeMap<String, f64>, f64)> {
    let server = Server::start(peer, Mode::Line, 64, &[args.server_core()])?;
    let summary = root().join("target/peers/strace");
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-p", &server.pid().to_string(), "-o"])
        .arg(&summary)
        .stderr(Stdio::piped())
        .spawn()?;
    // It says so when it is attached.
    let mut stderr = BufReader::new(strace.stderr.take().ok_or("no stderr")?);
    stderr.read_line(&mut String::new())?;
    let options = [
        ("--conns", "1".to_owned()),
        ("--depth", depth.to_string()),
        ("--warmup", "0".to_owned()),
        ("--bursts", bursts.to_string()),
    ];
    let loaded = load(&server, Mode::Line, &[args.client_core()], &options);
    if let Some(pid) = i32::try_from(strace.id()).ok().and_then(Pid::from_raw) {
        kill_process(pid, Signal::INT)?;
    }
    strace.wait()?;
    loaded?;
    let mut calls = BTreeMap::new();
    let mut failed = 0.0;
    for line in fs::read_to_string(&summary)?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(Ok(n))) = (fields.last(), fields.get(3).map(|n| n.parse::<f64>())) else { continue };
        if *name == "total" {
            continue;
        }
        calls.insert((*name).to_owned(), n);
        failed += if fields.len() == 6 { fields[4].parse().unwrap_or(0.0) } else { 0.0 };
    }
    Ok((calls, failed))
}

pub fn markdown(counted: &[Counted]) -> String {
    let mut text = String::from("# System calls of a burst, one connection\n\n");
    text.push_str("| server | depth | calls | all | failed | |\n|---|---:|---|---:|---:|---|\n");
    for Counted { server, depth, ours, calls, failed } in counted {
        let all: f64 = calls.values().sum();
        let list: Vec<String> = calls.iter().map(|(call, n)| format!("{call} {n:.2}")).collect();
        let three = (all - 3.0).abs() < 0.05 && *failed < 0.01;
        let word = match (ours, three) {
            (false, _) => "",
            (true, true) => "three, as demanded",
            (true, false) => "**not three**",
        };
        let _ = writeln!(text, "| {server} | {depth} | {} | {all:.2} | {failed:.2} | {word} |", list.join(", "));
    }
    text
}
