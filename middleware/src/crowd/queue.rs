use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::Closing;

/// A connection under a limit.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) closing: Closing,
    /// When bytes last moved, as far as is known.
    pub(super) idle_since: Instant,
}

/// Connections in the order in which they make room: all of a crowd, or those of one address.
#[derive(Debug, Default)]
pub(super) struct CandidateQueue {
    /// Connections that may have had no first frame, by their numbers: the oldest first.
    pub(super) silent: BTreeSet<u64>,
    /// All connections, the one that may have been idle for longest first.
    pub(super) idle: BTreeSet<(Instant, u64)>,
}

impl CandidateQueue {
    pub(super) fn insert(&mut self, id: u64, member: &Candidate, silent: bool) {
        self.idle.insert((member.idle_since, id));
        if silent {
            self.silent.insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: u64, member: &Candidate) {
        self.idle.remove(&(member.idle_since, id));
        self.silent.remove(&id);
    }

    /// The key by which addresses are compared: whether any connection may be silent, and how many
    /// there are.
    pub(super) fn rank(&self) -> (bool, usize) {
        (!self.silent.is_empty(), self.idle.len())
    }
}
