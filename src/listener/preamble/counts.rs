//! What became of preambles.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a preamble ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Passed,
    Failed,
    TimedOut,
    Dropped,
}

/// The counters of one server's preambles, shared by its listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preambles(Arc<Mutex<PreambleCounts>>);

impl Preambles {
    /// The counters, all of one moment.
    pub(crate) fn counts(&self) -> PreambleCounts {
        self.lock().clone()
    }

    pub(super) fn begin(&self) {
        self.lock().begun += 1;
    }

    pub(super) fn end(&self, end: End) {
        let mut counts = self.lock();
        match end {
            End::Passed => counts.passed += 1,
            End::Failed => counts.failed += 1,
            End::TimedOut => counts.timed_out += 1,
            End::Dropped => counts.dropped += 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, PreambleCounts> {
        // Only counters change under it; they are whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of what comes before a connection, the PROXY header and the TLS handshake, at one moment.
///
/// Only who came through is a connection and counts as accepted; what ended before is counted here alone. `begun` is
/// always `pending` plus the four others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreambleCounts {
    begun: u64,
    passed: u64,
    failed: u64,
    timed_out: u64,
    dropped: u64,
}

impl PreambleCounts {
    /// Taken from the endpoints' sockets since the server began.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Under way now, or through and not yet accepted.
    pub fn pending(&self) -> u64 {
        self.begun - self.passed - self.failed - self.timed_out - self.dropped
    }

    /// Came through, and were accepted as connections.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Ended by an error: no TLS, a certificate that was refused, a peer that went away.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Not through by their deadline.
    pub fn timed_out(&self) -> u64 {
        self.timed_out
    }

    /// Dropped for newer ones when too many were under way, or with the server.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
