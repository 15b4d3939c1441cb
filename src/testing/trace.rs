//! All events of a run, as one number.

use std::fmt;

use tokio::time::Instant;

/// This many events while the clock stands still mean an endless loop.
const SPIN: u64 = 1_000_000;

/// The events of a run: each read, write and end of a connection with its time, and each
/// [`note`](super::World::note). Two runs with equal traces were equal.
#[derive(Clone)]
pub struct Trace {
    hash: u64,
    events: u64,
    began: Instant,
    last: Instant,
    /// Events since the clock moved.
    same: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, began: now, last: now, same: 0 }
    }

    /// The number of events.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A hash of all events in their order.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn add(&mut self, connection: u64, what: &str, n: u64) {
        let now = Instant::now();
        self.same = if now == self.last { self.same + 1 } else { 0 };
        assert!(
            self.same < SPIN,
            "{SPIN} events while the clock stood still, the last one: {what}"
        );
        self.last = now;
        self.events += 1;
        let nanos = now.duration_since(self.began).as_nanos();
        for number in [connection, n, u64::try_from(nanos).unwrap_or(u64::MAX)] {
            self.hash_bytes(&number.to_le_bytes());
        }
        self.hash_bytes(what.as_bytes());
    }

    /// FNV-1a.
    fn hash_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        (self.hash, self.events) == (other.hash, other.events)
    }
}

impl Eq for Trace {}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x}, {} events)", self.hash, self.events)
    }
}
