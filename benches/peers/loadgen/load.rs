//! Bursts on many connections, each begun when the last one is answered.

use ropewalk_peers::{Pattern, Report, Result};

use crate::Args;
use crate::client::{Connection, Meter, Poller};

/// Connections opened before the server has to have served them: fewer than any backlog.
const OPENED_AT_ONCE: usize = 128;

pub fn run(args: &Args, pattern: &Pattern) -> Result<Report> {
    let mut connections = open(args, pattern)?;
    let (mut poller, mut ready) = (Poller::new()?, Vec::new());
    // One more than can come, so that a read is never full and the socket is known to be empty.
    let mut scratch = vec![0; pattern.burst(0).len() + 1];
    for (at, connection) in connections.iter_mut().enumerate() {
        poller.add(at, connection)?;
        connection.begin(pattern)?;
    }
    let mut meter = Meter::begin(args.server_pid)?;
    let mut warm = false;
    let mut completed = 0;
    loop {
        poller.wait(&mut ready)?;
        for &(at, readable) in &ready {
            let connection = &mut connections[at];
            let burst = connection.burst(pattern);
            connection.send(burst)?;
            let before = connection.frames(pattern);
            if readable && connection.receive(burst, &mut scratch)? > 0 {
                meter.answered(connection.frames(pattern) - before, connection.elapsed());
                if connection.is_done(burst) {
                    completed += 1;
                    connection.begin(pattern)?;
                }
            }
        }
        let elapsed = meter.elapsed();
        if !warm {
            // Each connection should have had a burst, even where the server takes long for all of them.
            if elapsed >= args.warmup() && completed >= args.conns {
                (warm, completed) = (true, 0);
                meter = Meter::begin(args.server_pid)?;
            }
        } else if args.is_over(elapsed, completed) {
            return meter.end();
        }
    }
}

/// Opens the connections, a few at a time, and has one burst answered on each.
fn open(args: &Args, pattern: &Pattern) -> Result<Vec<Connection>> {
    let mut connections: Vec<Connection> = Vec::new();
    while connections.len() < args.conns as usize {
        let opened = connections.len();
        let more = OPENED_AT_ONCE.min(args.conns as usize - opened);
        for n in opened..opened + more {
            connections.push(Connection::open(args.addr, args.net, n)?);
        }
        for connection in &mut connections[opened..] {
            connection.exchange(&pattern.burst(0)[..pattern.frame()])?;
        }
    }
    Ok(connections)
}
