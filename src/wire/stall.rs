//! The write stall: how long a peer may accept no bytes, or few.

use std::time::Duration;

use tokio::time::Instant;

use super::timer::after;

/// This many write stalls are the time in which a peer must accept [`PACE`] bytes of its answers,
/// or the rest of them.
pub(super) const STALLS: u32 = 4;

/// A peer that accepts a byte now and then never stalls. Therefore a peer that is behind must
/// accept this much in [`STALLS`] write stalls, or all that is queued: 546 bytes a second by
/// default, however long it is behind.
pub(super) const PACE: u64 = 64 * 1024;

/// A peer that is behind.
pub(super) struct Stall {
    /// Since when it has accepted no bytes, and how much the transport had passed on by then.
    pub(super) since: Instant,
    pub(super) handed_on: u64,
    /// The start of the current [`STALLS`] period, and the bytes it must accept in it, unless it
    /// accepts all.
    pub(super) paced: Instant,
    pub(super) owes: u64,
    /// Since when no bytes have been offered to it.
    pub(super) paused: Option<Instant>,
    /// How much was left when bytes were last offered to it.
    pub(super) left: usize,
}

impl Stall {
    pub(super) fn new(now: Instant, handed_on: u64) -> Self {
        Self { since: now, handed_on, paced: now, owes: PACE, paused: None, left: 0 }
    }

    /// It accepted bytes, or the transport passed on bytes that it had held back (of these, or of
    /// earlier ones).
    pub(super) fn progress(&mut self, taken: u64, handed_on: u64) {
        if let Some(paused) = self.paused.take() {
            // It could not accept more than it had been offered.
            self.paced += paused.elapsed();
        }
        let more = taken.max(handed_on.saturating_sub(self.handed_on));
        if more == 0 {
            return;
        }
        self.since = Instant::now();
        self.handed_on = handed_on;
        self.owes = self.owes.saturating_sub(more);
        if self.owes == 0 {
            self.paced = self.since;
            self.owes = PACE;
        }
    }

    pub(super) fn until(&self, patience: Duration) -> Instant {
        after(self.since, patience).min(after(self.paced, patience.saturating_mul(STALLS)))
    }
}
