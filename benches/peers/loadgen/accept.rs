//! Connect (under TLS with a handshake), one frame, close: many at once, again and again.

use ropewalk_peers::{Pattern, Report, Result};

use crate::Args;
use crate::client::{Connection, Meter, Poller};

pub fn run(args: &Args, pattern: &Pattern) -> Result<Report> {
    let target = args.target()?;
    let frame = |connection: &Connection| &connection.burst(pattern)[..pattern.frame()];
    let mut scratch = vec![0; pattern.frame() + 1];
    let (mut poller, mut ready) = (Poller::new()?, Vec::new());
    let mut connections = Vec::new();
    let mut opened = 0;
    let open = |poller: &Poller, at: usize, opened: &mut usize| -> Result<Connection> {
        let mut connection = Connection::open(&target, *opened)?;
        *opened += 1;
        connection.send(frame(&connection))?;
        poller.add(at, &connection)?;
        Ok(connection)
    };
    for at in 0..args.conns as usize {
        connections.push(open(&poller, at, &mut opened)?);
    }
    let mut meter = Meter::begin(args.server_pid)?;
    let (mut warm, mut completed) = (false, 0);
    loop {
        poller.wait(&mut ready)?;
        for &(at, readable) in &ready {
            let connection = &mut connections[at];
            let frame = frame(connection);
            // A handshake comes before it.
            connection.send(frame)?;
            if readable && connection.receive(frame, &mut scratch)? > 0 && connection.is_done(frame) {
                meter.answered(1, connection.elapsed());
                completed += 1;
                // The old one is closed here.
                *connection = open(&poller, at, &mut opened)?;
            }
        }
        let elapsed = meter.elapsed();
        if !warm {
            if elapsed >= args.warmup() {
                (warm, completed) = (true, 0);
                meter = Meter::begin(args.server_pid)?;
            }
        } else if args.is_over(elapsed, completed) {
            return meter.end();
        }
    }
}
