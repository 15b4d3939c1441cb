//! Bursts that one connection sends and all receive, itself among them; the next when all have it.

use ropewalk_peers::{Pattern, Report, Result};

use crate::Args;
use crate::client::{Meter, Poller, open_all};

/// Counts each line on each connection as a request.
pub fn run(args: &Args, pattern: &Pattern) -> Result<Report> {
    let mut connections = open_all(&args.target()?, args.conns as usize, &pattern.burst(0)[..pattern.frame()])?;
    let (mut poller, mut ready) = (Poller::new()?, Vec::new());
    // One more than can come, so that a read is never full and the socket is known to be empty.
    let mut scratch = vec![0; pattern.burst(0).len() + 1];
    for (at, connection) in connections.iter().enumerate() {
        poller.add(at, connection)?;
    }
    let (mut phase, mut completed, mut warm) = (0, 0, false);
    let mut meter = Meter::begin(args.server_pid)?;
    loop {
        phase += 1;
        let burst = pattern.burst(phase);
        for connection in &mut connections {
            connection.next_phase();
        }
        connections[0].send(burst)?;
        let mut waiting = connections.len();
        while waiting > 0 {
            poller.wait(&mut ready)?;
            for &(at, readable) in &ready {
                let connection = &mut connections[at];
                if at == 0 {
                    connection.send(burst)?;
                }
                let before = connection.frames(pattern);
                if readable && connection.receive(burst, &mut scratch)? > 0 {
                    meter.answered(connection.frames(pattern) - before, connection.elapsed());
                    waiting -= usize::from(connection.is_done(burst));
                }
            }
        }
        completed += 1;
        let elapsed = meter.elapsed();
        if !warm && elapsed >= args.warmup() {
            (warm, completed) = (true, 0);
            meter = Meter::begin(args.server_pid)?;
        } else if warm && args.is_over(elapsed, completed) {
            return meter.end();
        }
    }
}
