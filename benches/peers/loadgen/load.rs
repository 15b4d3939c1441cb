//! Bursts on many connections, each begun when the last one is answered.

use ropewalk_peers::{Pattern, Report, Result};

use crate::Args;
use crate::client::{Meter, Poller, open_all};

pub fn run(args: &Args, pattern: &Pattern) -> Result<Report> {
    let mut connections = open_all(&args.target()?, args.conns as usize, &pattern.burst(0)[..pattern.frame()])?;
    let (mut poller, mut ready) = (Poller::new()?, Vec::new());
    // One more than can come, so that a read is never full and the socket is known to be empty.
    let mut scratch = vec![0; pattern.burst(0).len() + 1];
    for (at, connection) in connections.iter_mut().enumerate() {
        poller.add(at, connection)?;
        if args.any_order {
            connection.take_any_order();
        }
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
            // Each connection should have had a burst, even where the server takes long for all of
            // them.
            if elapsed >= args.warmup() && completed >= args.conns {
                (warm, completed) = (true, 0);
                meter = Meter::begin(args.server_pid)?;
            }
        } else if args.is_over(elapsed, completed) {
            return meter.end();
        }
    }
}
