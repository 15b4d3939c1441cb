//! What an idle connection costs in memory.

use std::error::Error;
use std::fmt::Write;

use ropewalk_peers::{Mode, Phase, Result};
use serde::Serialize;

use crate::Args;
use crate::peers::{Kind, Peer};
use crate::running::{Idle, Server, load};

const ROW: &str = "memory";
const CONNECTIONS: usize = 15_000;
/// Frames of a burst, which is the load generator's default.
const DEPTH: u64 = 64;
/// The large frame each connection gets.
const BIG: u64 = 64 * 1024;
/// What it may cost after the large frames, of what it cost before.
const BACK: f64 = 1.2;

/// The phases of one server's connections.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    server: String,
    words: String,
    phases: Vec<Phase>,
    /// Bytes allocated for each connection at the end of each phase, of a server that counts them
    allocated: Option<Vec<f64>>,
    /// Allocations for a frame of a busy connection
    each_frame: Option<f64>,
    /// The most bytes a connection of this one may cost
    bound: Option<f64>,
}

pub fn run(args: &Args, peers: &[Peer]) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for peer in peers.iter().filter(|peer| args.takes(ROW, peer.name)) {
        eprintln!("memory: {}", peer.name);
        let (phases, _) = hold(args, peer, false)?;
        let counted = peer.counted();
        let allocated = counted
            .as_ref()
            .map(|counted| Ok::<_, Box<dyn Error + Send + Sync>>(hold(args, counted, true)?.1))
            .transpose()?;
        let each_frame = counted.as_ref().map(|counted| allocations(args, counted)).transpose()?;
        let bound = match (peer.kind, peer.name) {
            (Kind::Layers, _) => Some(2560.0),
            (Kind::Ours, "session") => Some(1792.0),
            (Kind::Ours, _) => Some(1536.0),
            _ => None,
        };
        held.push(Held { server: peer.name.into(), words: peer.words.into(), phases, allocated, each_frame, bound });
    }
    Ok(held)
}

fn hold(args: &Args, peer: &Peer, counted: bool) -> Result<(Vec<Phase>, Vec<f64>)> {
    let conns = if args.quick { 500 } else { CONNECTIONS };
    // Lines have a smaller limit.
    let mut server = Server::start(peer, Mode::Int32, 64, &[args.server_core()])?;
    let mut idle = Idle::start(&server, Mode::Int32, conns, 1, Some(BIG), &[args.client_core()])?;
    let (mut phases, mut allocated, mut base) = (Vec::new(), Vec::new(), 0.0);
    while let Some(phase) = idle.phase()? {
        if counted {
            let (now, _) = server.allocated()?;
            match phase.phase.as_str() {
                "ready" => base = now,
                _ => allocated.push((now - base) / conns as f64),
            }
        }
        if phase.phase != "ready" {
            phases.push(phase);
        }
        idle.step()?;
    }
    Ok((phases, allocated))
}

/// How often a frame makes a server allocate, once it is under way.
fn allocations(args: &Args, peer: &Peer) -> Result<f64> {
    let mut server = Server::start(peer, Mode::Line, 64, &[args.server_core()])?;
    let run = |bursts: u64, server: &mut Server| -> Result<(f64, f64)> {
        let options = [("--conns", "1".to_owned()), ("--warmup", "0".to_owned()), ("--bursts", bursts.to_string())];
        let (_, before) = server.allocated()?;
        load(server, Mode::Line, &[args.client_core()], &options)?;
        Ok((server.allocated()?.1 - before, (bursts * DEPTH) as f64))
    };
    // What a connection's begin and end allocate is in both.
    let (few, few_frames) = run(100, &mut server)?;
    let (many, many_frames) = run(2100, &mut server)?;
    Ok((many - few) / (many_frames - few_frames))
}

impl Held {
    fn bytes(&self, phase: &str) -> f64 {
        let phase = self.phases.iter().find(|held| held.phase == phase);
        phase.and_then(|phase| phase.bytes_each).unwrap_or(f64::NAN)
    }
}

pub fn markdown(held: &[Held]) -> String {
    let conns = held.first().and_then(|held| held.phases.first()).map_or(0, |phase| phase.conns);
    let mut text = format!("# Memory of a connection, in bytes, of {conns} that are idle\n\n");
    text.push_str(
        "Resident memory of the server: after a frame of 64 bytes on each; 5 s after one of 64 KiB on each, some at a \
         time; 5 s after the same with half of it sent on all of them first. Heap: what is allocated at these times. \
         Allocations: for a 64-byte line on a busy connection.\n\n\
         | server | after a frame | after 64 KiB | after halves | heap | allocations a frame | |\n\
         |---|---:|---:|---:|---:|---:|---|\n",
    );
    for held in held {
        let (opened, whole, split) = (held.bytes("opened"), held.bytes("after whole"), held.bytes("after split"));
        let heap = held.allocated.as_deref().unwrap_or_default();
        // Opened, whole, after it, split, after it.
        let heap: Vec<String> = heap.iter().step_by(2).take(3).map(|bytes| format!("{bytes:.0}")).collect();
        let word = held.bound.map_or_else(String::new, |bound| {
            let mark = |met: bool| if met { "met" } else { "**missed**" };
            let back = whole.max(split) <= opened * BACK;
            format!("at most {bound:.0}: {}; back within {BACK} ×: {}", mark(opened <= bound), mark(back))
        });
        let (words, heap) = (&held.words, heap.join(", "));
        let each = held.each_frame.map_or_else(String::new, |each| format!("{each:.3}"));
        let _ = writeln!(text, "| {words} | {opened:.0} | {whole:.0} | {split:.0} | {heap} | {each} | {word} |");
    }
    text
}
