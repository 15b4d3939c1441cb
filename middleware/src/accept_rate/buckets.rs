//! The buckets of peers, and of all peers together.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::bounded::{Bounded, Need};

/// Beyond the range of the clock: longer than any process lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A rate of connections: tokens that arrive at an interval, and the most tokens a bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time between two tokens.
    interval: Duration,
    /// How far ahead of the clock a bucket may be: the time in which all its tokens except one
    /// arrive.
    ahead: Duration,
}

impl Rate {
    /// At most `connections` in each `per`, evenly spread, and as many at once.
    ///
    /// # Panics
    ///
    /// Panics if either is zero.
    #[must_use]
    pub fn new(connections: u32, per: Duration) -> Self {
        assert!(connections > 0 && !per.is_zero(), "a rate has a number and a time");
        // With more tokens than nanoseconds, each token still takes one nanosecond.
        let interval = (per / connections).max(Duration::from_nanos(1));
        Self { interval, ahead: Duration::ZERO }.burst(connections)
    }

    /// How many connections may come at once: the tokens of a full bucket.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    #[must_use]
    pub fn burst(mut self, connections: u32) -> Self {
        assert!(connections > 0, "a burst of 0 would refuse every connection");
        self.ahead = self.interval.saturating_mul(connections - 1);
        self
    }

    /// When the bucket will be full again after one more token is taken; `None` if it has no token
    /// now.
    fn take(self, full: Option<Instant>, now: Instant) -> Option<Instant> {
        let full = full.map_or(now, |full| full.max(now));
        let next = || full.checked_add(self.interval).unwrap_or_else(|| now + FOREVER);
        (full - now <= self.ahead).then(next)
    }
}

/// The buckets of one layer.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) peer: Option<Rate>,
    pub(super) all: Option<Rate>,
    taken: Mutex<TakenTokens>,
}

/// When each bucket will be full again; a full bucket needs no entry.
#[derive(Debug)]
struct TakenTokens {
    peers: Bounded<IpAddr, Instant>,
    all: Option<Instant>,
}

impl Buckets {
    /// Buckets for at most `most` peers.
    pub(super) fn new(peer: Option<Rate>, all: Option<Rate>, most: usize) -> Self {
        Self { peer, all, taken: Mutex::new(TakenTokens { peers: Bounded::new(most), all: None }) }
    }

    /// Takes a token of the peer's bucket and one of the shared bucket: both or neither. Returns
    /// whether it took them.
    pub(super) fn take(&self, peer: Option<IpAddr>) -> bool {
        let now = Instant::now();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = None;
        if let (Some(rate), Some(ip)) = (self.peer, peer) {
            let Some(full) = rate.take(taken.peers.get(&ip).copied(), now) else { return false };
            own = Some((ip, full));
        }
        if let Some(rate) = self.all {
            let Some(full) = rate.take(taken.all, now) else { return false };
            taken.all = Some(full);
        }
        if let Some((ip, full)) = own {
            let need = |full: &Instant| if *full <= now { Need::Over } else { Need::Needed };
            taken.peers.insert(ip, full, now, need);
        }
        true
    }

    pub(super) fn untracked(&self) -> u64 {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).peers.untracked()
    }

    pub(super) fn len(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).peers.len()
    }
}
