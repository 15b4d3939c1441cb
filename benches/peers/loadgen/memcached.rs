//! memcached's text protocol: nine `get` to each `set`, on keys of each connection's own.

use ropewalk_peers::{Report, Result};

use crate::Args;
use crate::client::{Connection, Meter, Poller};

/// Keys of a connection, and about as many requests until it begins anew.
const KEYS: usize = 200;

/// What a connection sends, again and again, and what it is answered: known to the byte, for nobody
/// else has its keys, and what they have at the end is what they have at the beginning.
struct Script {
    /// What stores the first values, and its answer.
    before: (Vec<u8>, Vec<u8>),
    bursts: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Script {
    /// Of the `n`th connection, with bursts of `depth` requests and values of `size` bytes.
    fn new(n: usize, depth: usize, size: usize) -> Self {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_add(n as u64);
        let mut below = |limit: usize| {
            // Knuth's generator; its low bits are of no use.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % limit
        };
        let count = KEYS.div_ceil(depth) * depth;
        // The key, and for a `set` the number of the value.
        let requests: Vec<(usize, Option<usize>)> =
            (1..=count).map(|i| (below(KEYS), (below(10) == 0).then_some(i))).collect();
        let mut values = [0; KEYS];
        for &(key, value) in &requests {
            values[key] = value.unwrap_or(values[key]);
        }
        let set = |key: usize, value: usize| format!("set {n:05}:{key:05} 0 0 {size}\r\n{}\r\n", text(value, size));
        let before = values.iter().enumerate().map(|(key, &value)| set(key, value)).collect::<String>();
        let bursts = requests.chunks(depth).map(|requests| {
            let (mut sent, mut answer) = (String::new(), String::new());
            for &(key, value) in requests {
                if let Some(value) = value {
                    values[key] = value;
                    sent += &set(key, value);
                    answer += "STORED\r\n";
                } else {
                    sent += &format!("get {n:05}:{key:05}\r\n");
                    answer += &format!("VALUE {n:05}:{key:05} 0 {size}\r\n{}\r\nEND\r\n", text(values[key], size));
                }
            }
            (sent.into_bytes(), answer.into_bytes())
        });
        Self { bursts: bursts.collect(), before: (before.into_bytes(), b"STORED\r\n".repeat(KEYS)) }
    }

    fn burst(&self, phase: usize) -> &(Vec<u8>, Vec<u8>) {
        &self.bursts[phase % self.bursts.len()]
    }
}

/// A value, unlike its neighbours.
fn text(value: usize, size: usize) -> String {
    let number = format!("{value:08}");
    let letters = (0..size).map(|i| char::from(b'a' + ((i + value) % 26) as u8));
    number.chars().chain(letters).take(size).collect()
}

pub fn run(args: &Args) -> Result<Report> {
    let (target, depth) = (args.target()?, args.depth as usize);
    let scripts: Vec<_> = (0..args.conns as usize).map(|n| Script::new(n, depth, args.size as usize)).collect();
    let mut connections = Vec::new();
    for (n, script) in scripts.iter().enumerate() {
        // Whose next burst is the script's first.
        let mut connection = Connection::open_at(&target, n, script.bursts.len() - 1)?;
        connection.ask(&script.before.0, &script.before.1)?;
        connections.push(connection);
    }
    let longest = scripts.iter().flat_map(|script| &script.bursts).map(|(_, answer)| answer.len()).max();
    // One more than can come, so that a read is never full and the socket is known to be empty.
    let mut scratch = vec![0; longest.unwrap_or_default() + 1];
    let (mut poller, mut ready) = (Poller::new()?, Vec::new());
    for (at, connection) in connections.iter_mut().enumerate() {
        poller.add(at, connection)?;
        let phase = connection.next_phase();
        connection.send(&scripts[at].burst(phase).0)?;
    }
    let mut meter = Meter::begin(args.server_pid)?;
    let (mut warm, mut completed) = (false, 0);
    loop {
        poller.wait(&mut ready)?;
        for &(at, readable) in &ready {
            let (connection, script) = (&mut connections[at], &scripts[at]);
            let (sent, answer) = script.burst(connection.phase());
            connection.send(sent)?;
            if readable && connection.receive(answer, &mut scratch)? > 0 && connection.is_done(answer) {
                meter.answered(args.depth, connection.elapsed());
                completed += 1;
                let phase = connection.next_phase();
                connection.send(&script.burst(phase).0)?;
            }
        }
        let elapsed = meter.elapsed();
        if !warm {
            // Each connection should have had a burst.
            if elapsed >= args.warmup() && completed >= args.conns {
                (warm, completed) = (true, 0);
                meter = Meter::begin(args.server_pid)?;
            }
        } else if args.is_over(elapsed, completed) {
            return meter.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_are_sets_and_every_answer_follows_from_earlier_sets() {
        let script = Script::new(3, 16, 64);
        let mut cache = std::collections::HashMap::new();
        let mut sets = 0;
        let rounds = [&script.before].into_iter().chain(&script.bursts).chain(&script.bursts);
        for (sent, answer) in rounds {
            let (sent, mut given) = (String::from_utf8_lossy(sent), String::new());
            let mut lines = sent.lines();
            while let Some(line) = lines.next() {
                let words: Vec<_> = line.split(' ').collect();
                if words[0] == "set" {
                    cache.insert(words[1].to_owned(), lines.next().unwrap_or_default().to_owned());
                    sets += 1;
                    given += "STORED\r\n";
                } else {
                    given += &format!("VALUE {} 0 64\r\n{}\r\nEND\r\n", words[1], cache[words[1]]);
                }
            }
            assert_eq!(given.as_bytes(), answer);
        }
        let share = (sets - KEYS) as f64 / (2 * script.bursts.len() * 16) as f64;
        assert!((0.05..0.15).contains(&share), "{share}");
    }
}
