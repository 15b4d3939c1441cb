//! A server's counters.

use std::collections::BTreeMap;
use std::fmt;

use ropewalk_middleware::CloseReason;
use ropewalk_middleware::connection::PerReason;

/// A server's counters at one moment. `accepted` always equals `active` plus all closed
/// connections.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Counts {
    accepted: u64,
    active: u64,
    /// Of those that are closed.
    refused: u64,
    closed: PerReason,
}

impl Counts {
    pub(super) fn accept(&mut self) {
        self.accepted += 1;
        self.active += 1;
    }

    pub(super) fn close(&mut self, reason: CloseReason, refused: bool) {
        self.active -= 1;
        self.closed[reason] += 1;
        self.refused += u64::from(refused);
    }

    /// Connections accepted since the server began.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Connections open now.
    pub fn active(&self) -> u64 {
        self.active
    }

    /// Connections that ended for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason]
    }

    /// Connections that a layer refused instead of serving them, and that are closed: a limit, an
    /// [`AccessLayer`](crate::layer::AccessLayer), a [`BanLayer`](crate::layer::BanLayer), and each
    /// other that uses [`Refuse`](crate::layer::Refuse). [`Counts::closed`] tells them apart by
    /// their reasons.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Connections that ended, for any reason.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn reasons(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        CloseReason::ALL
            .into_iter()
            .map(|reason| (reason, self.closed(reason)))
            .filter(|(_, n)| *n > 0)
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the many reasons only those that occurred.
        let closed: BTreeMap<_, _> =
            self.reasons().map(|(reason, n)| (reason.as_str(), n)).collect();
        let Self { accepted, active, refused, closed: _ } = self;
        let mut counts = f.debug_struct("Counts");
        counts.field("accepted", accepted).field("active", active).field("refused", refused);
        counts.field("closed", &closed).finish()
    }
}
