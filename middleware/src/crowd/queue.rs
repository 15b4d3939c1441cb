use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::Closing;

/// A connection under a cap.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) closing: Closing,
    /// As far as is known: bytes may have moved since.
    pub(super) idle_since: Instant,
}

/// Connections in the order in which they make room: all of a crowd, or those of one address.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those that may be without a first frame, by their numbers: the oldest first.
    pub(super) silent: BTreeSet<u64>,
    /// All, the one first that may have been idle for longest.
    pub(super) idle: BTreeSet<(Instant, u64)>,
}

impl Queue {
    pub(super) fn insert(&mut self, id: u64, member: &Member, silent: bool) {
        self.idle.insert((member.idle_since, id));
        if silent {
            self.silent.insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: u64, member: &Member) {
        self.idle.remove(&(member.idle_since, id));
        self.silent.remove(&id);
    }

    /// By which addresses are compared: whether any may be silent, and how many there are.
    pub(super) fn rank(&self) -> (bool, usize) {
        (!self.silent.is_empty(), self.idle.len())
    }
}
