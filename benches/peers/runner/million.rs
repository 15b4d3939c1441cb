//! As many idle connections as the machine allows, over several processes as a process may have few
//! descriptors.

use std::fmt::Write;
use std::fs;
use std::time::Instant;

use ropewalk_peers::{Memory, Mode, Result, kernel_memory, raise_descriptor_limit};
use serde::Serialize;

use crate::Args;
use crate::peers::Peer;
use crate::running::{Idle, Server, load};

/// The most memory that a connection may take, both its ends and the server's part: for the
/// bound only.
const BYTES: u64 = 14 * 1024;
/// Left to the machine.
const SPARE: u64 = 1 << 30;
/// The descriptors of a process besides its connections.
const OTHERS: u64 = 200;

/// What it came to.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    conns: usize,
    processes: usize,
    opened_in_seconds: f64,
    /// The server's resident memory
    server_bytes: f64,
    /// The kernel's slab, of both ends of a connection
    slab_bytes: f64,
    /// The decrease of the machine's available memory, of which the load generator's part is small
    available_bytes: f64,
    /// From connect to the answer to one line, of a connection that comes now
    newcomer_us: f64,
    /// A frame answered on each once more
    alive: usize,
}

/// The most connections that can be: both ends of each are here.
fn most(wanted: usize, each: u64, memory: Memory) -> Result<usize> {
    let most_files: u64 = fs::read_to_string("/proc/sys/fs/file-max")?.trim().parse()?;
    let by_files = most_files / 10 * 9 / 2;
    let by_memory = memory.available.saturating_sub(SPARE) / BYTES;
    let most = by_files.min(by_memory).min(wanted as u64);
    eprintln!("million: {most} connections, {each} a process; {by_files} by descriptors, {by_memory} by memory");
    Ok(usize::try_from(most)?)
}

pub fn run(args: &Args, peers: &[Peer]) -> Result<Held> {
    let peer = peers.iter().find(|peer| peer.name == "framed").ok_or("ours was not built")?;
    let (before, each) = (kernel_memory()?, raise_descriptor_limit().min(1_000_000) - OTHERS);
    let wanted = if args.quick { args.conns.min(2000) } else { args.conns };
    let conns = most(wanted, each, before)?;
    let each = usize::try_from(each)?.min(if args.quick { 1000 } else { usize::MAX });
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    let (mut opened, mut server_bytes) = (0, 0.0);
    let begun = Instant::now();
    while opened < conns {
        let now = each.min(conns - opened);
        let server = Server::start(peer, Mode::Line, 64, &[args.server_core()])?;
        // From another network each, or free ports would be hard to find.
        let mut client = Idle::start(&server, Mode::Line, now, clients.len() % 250 + 1, None, &[args.client_core()])?;
        client.phase()?.ok_or("the load generator is not ready")?;
        client.step()?;
        let phase = client.phase()?.ok_or("the load generator ended early")?;
        opened += phase.conns;
        server_bytes += phase.bytes_each.unwrap_or_default() * phase.conns as f64;
        servers.push(server);
        clients.push(client);
    }
    let opened_in_seconds = begun.elapsed().as_secs_f64();
    let after = kernel_memory()?;
    let options = [
        ("--accept", String::new()),
        ("--conns", "1".to_owned()),
        ("--warmup", "0".to_owned()),
        ("--bursts", "50".to_owned()),
        ("--net", "254".to_owned()),
    ];
    let last = servers.last().ok_or("no connections were asked for")?;
    let newcomer = load(last, Mode::Line, &[args.client_core()], &options)?;
    let mut alive = 0;
    for client in &mut clients {
        client.step()?;
        let phase = client.phase()?.ok_or("the load generator ended early")?;
        alive += phase.conns;
        client.step()?;
    }
    let per = |bytes: f64| bytes / opened as f64;
    Ok(Held {
        conns: opened,
        processes: servers.len(),
        opened_in_seconds,
        server_bytes: per(server_bytes),
        slab_bytes: per(after.slab as f64 - before.slab as f64),
        available_bytes: per(before.available as f64 - after.available as f64),
        newcomer_us: newcomer.p50_us,
        alive,
    })
}

pub fn markdown(held: &Held) -> String {
    let mut text = format!("# {} idle connections\n\n", held.conns);
    let _ = writeln!(text, "- in {} processes of each kind, opened in {:.0} s", held.processes, held.opened_in_seconds);
    let _ = writeln!(text, "- {:.0} bytes of a server's resident memory for each", held.server_bytes);
    let _ = writeln!(text, "- {:.0} bytes of the kernel's slab for each, its two ends together", held.slab_bytes);
    let _ = writeln!(text, "- {:.0} bytes less available to the machine for each", held.available_bytes);
    let _ = writeln!(text, "- one that comes now is answered in {:.0} µs from its first byte", held.newcomer_us);
    let _ = writeln!(text, "- a frame was answered on {} of them at the end", held.alive);
    text
}
