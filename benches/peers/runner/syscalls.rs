//! The system calls of a burst, counted by strace: exact even if the machine does other work.

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
/// The calls at the beginning and the end of a run are in both, and cancel out in the difference.
const FEW: u64 = 200;
const MANY: u64 = 1200;

/// Services that wait, and the most calls of a burst that are demanded. A backend is in the same
/// process, so its calls are counted with the server's: the demand is no more than by hand.
const WAITING: [(&str, Option<f64>); 10] = [
    ("framed-turn", Some(5.0)),
    ("concurrent-turn", Some(5.0)),
    ("unordered-turn", Some(5.0)),
    ("during-turn", Some(5.0)),
    ("drive-turn", Some(5.0)),
    ("stream-turn", Some(5.0)),
    ("framed-backend", None),
    ("during-backend", None),
    ("drive-backend", None),
    ("hand-backend", None),
];

/// So many connections share a turn of the scheduler, which asks the kernel for events at its end.
const WAITING_CONNS: u64 = 50;

/// What one server calls in one burst.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    server: String,
    depth: u64,
    /// The most that is demanded.
    most: Option<f64>,
    calls: BTreeMap<String, f64>,
    /// Of all calls
    failed: f64,
}

/// Whether there is strace.
pub fn are_countable() -> bool {
    Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// `None` without strace.
pub fn run(args: &Args, peers: &[Peer]) -> Result<Option<Vec<Counted>>> {
    if !are_countable() {
        return Ok(None);
    }
    let mut counted = Vec::new();
    for peer in peers.iter().filter(|peer| args.takes(ROW, peer.name)) {
        let most = matches!(peer.kind, Kind::Ours | Kind::Layers).then_some(3.0);
        for depth in DEPTHS {
            counted.push(count_burst(args, peer, 1, depth, most)?);
        }
    }
    for &(name, most) in &WAITING {
        if args.takes(ROW, name) {
            counted.push(count_burst(args, &Peer::waiting(name), WAITING_CONNS, 64, most)?);
        }
    }
    Ok(Some(counted))
}

/// The calls of one burst: the difference of two runs.
fn count_burst(args: &Args, peer: &Peer, conns: u64, depth: u64, most: Option<f64>) -> Result<Counted> {
    let options = |bursts: u64| {
        let mut options = vec![
            ("--conns", conns.to_string()),
            ("--depth", depth.to_string()),
            ("--warmup", "0".to_owned()),
            ("--bursts", bursts.to_string()),
        ];
        if peer.name.starts_with("unordered") {
            options.push(("--any-order", String::new()));
        }
        options
    };
    let (mut many, mut failed) = count(args, peer, &options(MANY))?;
    let (few, failed_of_few) = count(args, peer, &options(FEW))?;
    failed -= failed_of_few;
    for (call, n) in few {
        *many.entry(call).or_default() -= n;
    }
    let calls = many.into_iter().map(|(call, n)| (call, n / (MANY - FEW) as f64));
    let calls = calls.filter(|(_, n)| n.abs() > 0.004).collect();
    Ok(Counted { server: peer.name.into(), depth, most, calls, failed: failed / (MANY - FEW) as f64 })
}

/// The calls under this load, and how many of them failed.
pub fn count(args: &Args, peer: &Peer, options: &[(&str, String)]) -> Result<(BTreeMap<String, f64>, f64)> {
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
    let loaded = load(&server, Mode::Line, &[args.client_core()], options);
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
    let mut text = String::from("# System calls of a burst: one connection, and 50 where calls wait\n\n");
    text.push_str("| server | depth | calls | all | failed | |\n|---|---:|---|---:|---:|---|\n");
    for Counted { server, depth, most, calls, failed } in counted {
        let all: f64 = calls.values().sum();
        let list: Vec<String> = calls.iter().map(|(call, n)| format!("{call} {n:.2}")).collect();
        let word = match most {
            None => String::new(),
            Some(most) if all < most + 0.05 && (*failed < 0.01 || *most > 3.0) => {
                format!("at most {most}, as demanded")
            }
            Some(most) => format!("**more than {most}**"),
        };
        let _ = writeln!(text, "| {server} | {depth} | {} | {all:.2} | {failed:.2} | {word} |", list.join(", "));
    }
    text
}
