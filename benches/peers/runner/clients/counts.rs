//! What is the same on a busy machine: instructions by callgrind, system calls by strace. Each is
//! the difference of a run with many calls and one with few.

use std::fs;
use std::process::Command;

use ropewalk_peers::{Result, on_cores};

use super::{Cell, Servers, command};
use crate::{Args, root};

/// The calls of the two runs.
fn calls(cell: &Cell) -> [u64; 2] {
    if cell.shape == "single" { [1000, 6000] } else { [6400, 70_400] }
}

/// Instructions of a call; `None` without valgrind.
pub fn instructions(args: &Args, cell: &Cell, servers: &Servers) -> Result<Option<f64>> {
    if !is_there("valgrind", "--version") {
        return Ok(None);
    }
    let log = root().join("target/peers/callgrind-clients");
    let (out, log_option) = ("--callgrind-out-file=/dev/null", format!("--log-file={}", log.display()));
    let mut counted = [0.0; 2];
    for (counted, calls) in counted.iter_mut().zip(calls(cell)) {
        run(args, command(cell, servers, &["valgrind", "--tool=callgrind", out, &log_option], calls)?)?;
        let said = fs::read_to_string(&log)?;
        let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        *counted = collected.ok_or("callgrind does not say what it counted")?;
    }
    let [few, many] = calls(cell);
    Ok(Some((counted[1] - counted[0]) / (many - few) as f64))
}

/// Writes, reads and waits for a wave of calls, or for one call; `None` without strace.
pub fn syscalls(args: &Args, cell: &Cell, servers: &Servers) -> Result<Option<[f64; 3]>> {
    if !is_there("strace", "-V") {
        return Ok(None);
    }
    let summary = root().join("target/peers/strace-clients");
    let path = summary.display().to_string();
    let mut counted = [[0.0; 3]; 2];
    for (counted, calls) in counted.iter_mut().zip(calls(cell)) {
        run(args, command(cell, servers, &["strace", "-f", "-c", "-o", &path], calls)?)?;
        for line in fs::read_to_string(&summary)?.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(name), Some(Ok(n))) = (fields.last(), fields.get(3).map(|n| n.parse::<f64>())) else { continue };
            match *name {
                "write" | "writev" | "sendto" | "sendmsg" => counted[0] += n,
                "read" | "readv" | "recvfrom" | "recvmsg" => counted[1] += n,
                "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => counted[2] += n,
                _ => {}
            }
        }
    }
    let [few, many] = calls(cell);
    let bursts = (many - few) as f64 / if cell.shape == "single" { 1.0 } else { 64.0 };
    Ok(Some([0, 1, 2].map(|i| (counted[1][i] - counted[0][i]) / bursts)))
}

fn is_there(tool: &str, version: &str) -> bool {
    Command::new(tool).arg(version).output().is_ok_and(|output| output.status.success())
}

fn run(args: &Args, mut command: Command) -> Result {
    let output = on_cores(&[args.client_core()], || command.output())??;
    if output.status.success() { Ok(()) } else { Err(format!("{command:?} fails").into()) }
}
