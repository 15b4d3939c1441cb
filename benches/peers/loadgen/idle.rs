//! Connections that were used once and are held: what they cost the server's memory.

use std::time::{Duration, Instant};

use ropewalk_peers::{Pattern, Phase, Result, resident};

use crate::Args;
use crate::client::{Connection, exchange_all, open_all};

/// How long a server may take to give memory back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

pub fn run(args: &Args, pattern: &Pattern) -> Result {
    let frame = &pattern.burst(0)[..pattern.frame()];
    let target = args.target()?;
    // Memory that a server sets up once, at its first connection, does not count for a connection.
    Connection::open(&target, 0)?.exchange(frame)?;
    std::thread::sleep(Duration::from_millis(100));
    let base = args.server_pid.map(resident).transpose()?;
    tell(args, "ready", &[], Instant::now(), base)?;

    let begun = Instant::now();
    let mut connections = open_all(&target, args.conns as usize, frame)?;
    tell(args, "opened", &connections, begun, base)?;

    if let Some(size) = args.big {
        let big = Pattern::new(args.mode, size as usize, 1);
        for (split, over, after) in [(false, "whole", "after whole"), (true, "split", "after split")] {
            let begun = Instant::now();
            burst(&mut connections, big.burst(0), split)?;
            tell(args, over, &connections, begun, base)?;
            std::thread::sleep(BACK_WITHIN);
            tell(args, after, &connections, begun, base)?;
        }
    }

    let begun = Instant::now();
    exchange_all(&mut connections, frame)?;
    tell(args, "alive", &connections, begun, base)
}

/// One large frame on each connection, on some at a time; or half of it on all before the other
/// half on any.
fn burst(connections: &mut [Connection], big: &[u8], split: bool) -> Result {
    if !split {
        return exchange_all(connections, big);
    }
    let (first, second) = big.split_at(big.len() / 2);
    for connection in &mut *connections {
        connection.put(first)?;
    }
    connections.iter_mut().try_for_each(|connection| {
        connection.put(second)?;
        connection.expect(big)
    })
}

fn tell(args: &Args, phase: &str, conns: &[Connection], begun: Instant, base: Option<u64>) -> Result {
    let seconds = begun.elapsed().as_secs_f64();
    let now = args.server_pid.map(resident).transpose()?;
    let grown = now.zip(base).map(|(now, base)| now as f64 - base as f64);
    let conns = conns.len();
    let phase = phase.to_owned();
    let phase = Phase { phase, conns, seconds, bytes_each: grown.map(|grown| grown / conns.max(1) as f64) };
    if args.json {
        println!("{}", serde_json::to_string(&phase)?);
    } else {
        println!("{phase:?}");
    }
    if args.step && std::io::stdin().read_line(&mut String::new())? == 0 {
        return Err("nobody is there to say when to go on".into());
    }
    Ok(())
}
