//! Counters of preambles by how they ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a preamble ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreambleEnd {
    Passed,
    Failed,
    TimedOut,
    Dropped(PreambleDrop),
}

/// Why a preamble was dropped that had neither failed nor timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PreambleDrop {
    /// It made room for another one before its peer had sent a byte.
    Silent,
    /// It made room for another one after its peer had sent something: its address had more than
    /// its share under way, or no other preamble could be dropped.
    Share,
    /// The process had no descriptor left for a new connection, and this was the oldest silent
    /// preamble, or the oldest silent one of a crowded address.
    Descriptors,
    /// The server drained, stopped or was dropped.
    Ended,
}

impl PreambleDrop {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Silent, Self::Share, Self::Descriptors, Self::Ended];
}

/// The counters of preambles (PROXY headers and TLS handshakes, which come before a connection) at
/// one moment.
///
/// A peer counts as an accepted connection only after its preamble has passed; one that ended
/// before is counted only here. `begun` is always the sum of `pending`, `passed`, `failed`,
/// `timed_out` and `dropped`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreambleCounts {
    begun: u64,
    passed: u64,
    failed: u64,
    timed_out: u64,
    dropped: [u64; PreambleDrop::ALL.len()],
}

impl PreambleCounts {
    pub(super) fn begin(&mut self) {
        self.begun += 1;
    }

    pub(super) fn end(&mut self, end: PreambleEnd) {
        match end {
            PreambleEnd::Passed => self.passed += 1,
            PreambleEnd::Failed => self.failed += 1,
            PreambleEnd::TimedOut => self.timed_out += 1,
            PreambleEnd::Dropped(reason) => self.dropped[reason as usize] += 1,
        }
    }

    /// Accepted from the endpoints' sockets since the server began.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Under way now, or passed and not yet accepted.
    pub fn pending(&self) -> u64 {
        self.begun - self.passed - self.failed - self.timed_out - self.dropped()
    }

    /// Passed, and accepted as connections.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Ended by an error: not TLS, a refused certificate, a peer that closed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Not finished by their deadline.
    pub fn timed_out(&self) -> u64 {
        self.timed_out
    }

    /// Dropped, for any of the four reasons.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Dropped for this reason.
    pub fn dropped_for(&self, reason: PreambleDrop) -> u64 {
        self.dropped[reason as usize]
    }
}

/// The endpoint that preambles come from, with its counters.
#[derive(Clone, Debug)]
pub(super) struct PreambleOwner {
    pub(super) service: usize,
    counts: Arc<Mutex<PreambleCounts>>,
}

impl PreambleOwner {
    /// An endpoint of this service.
    pub(super) fn of(service: usize) -> Self {
        Self { service, counts: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, PreambleCounts> {
        // Only numbers change under it.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both are the same endpoint.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counts, &other.counts)
    }

    pub(super) fn begin(&self) {
        self.lock().begin();
    }

    pub(super) fn end(&self, end: PreambleEnd) {
        self.lock().end(end);
    }

    pub(super) fn counts(&self) -> PreambleCounts {
        self.lock().clone()
    }
}
