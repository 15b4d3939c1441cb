//! The buckets of peers, and of all peers together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

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
        (full - now <= self.ahead).then(|| full + self.interval)
    }
}

/// A table with fewer peers than this is not swept.
const FEW: usize = 1024;

/// The pause between two sweeps of a table that stays full.
const PAUSE: Duration = Duration::from_secs(1);

/// The buckets of one layer.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) peer: Option<Rate>,
    pub(super) all: Option<Rate>,
    most: usize,
    taken: Mutex<TakenTokens>,
}

/// When each bucket will be full again; a full bucket needs no entry.
#[derive(Debug, Default)]
struct TakenTokens {
    peers: HashMap<IpAddr, Instant>,
    all: Option<Instant>,
    /// The table is swept when it has this many peers.
    sweep_at: usize,
    /// The earliest next sweep, if the last one left the table more than half full.
    sweep_after: Option<Instant>,
    untracked: u64,
}

impl Buckets {
    /// Buckets for at most `most` peers.
    pub(super) fn new(peer: Option<Rate>, all: Option<Rate>, most: usize) -> Self {
        Self {
            peer,
            all,
            most,
            taken: Mutex::new(TakenTokens { sweep_at: FEW.min(most), ..TakenTokens::default() }),
        }
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
            taken.remember(ip, full, now, self.most);
        }
        true
    }

    pub(super) fn untracked(&self) -> u64 {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).untracked
    }

    pub(super) fn len(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).peers.len()
    }
}

impl TakenTokens {
    fn remember(&mut self, ip: IpAddr, full: Instant, now: Instant, most: usize) {
        if let Some(known) = self.peers.get_mut(&ip) {
            *known = full;
            return;
        }
        if self.peers.len() >= self.sweep_at && self.sweep_after.is_none_or(|after| after <= now) {
            self.sweep(now, most);
        }
        if self.peers.len() < most {
            self.peers.insert(ip, full);
        } else {
            self.untracked += 1;
        }
    }

    /// Forgets the peers whose buckets are full again. Between two sweeps the table doubles, or a
    /// second passes, so that a sweep costs a connection a few entries at most.
    fn sweep(&mut self, now: Instant, most: usize) {
        self.peers.retain(|_, full| *full > now);
        self.peers.shrink_to(2 * self.peers.len());
        self.sweep_at = (2 * self.peers.len()).clamp(FEW.min(most), most);
        self.sweep_after = (self.peers.len() > most / 2).then(|| now + PAUSE);
    }
}
