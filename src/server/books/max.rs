//! The most connections at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The most connections open at once, as it is now.
#[derive(Debug)]
pub(in crate::server) struct MaxConnections {
    now: AtomicUsize,
    /// The default once the first endpoint with preambles is added, whose slots need
    /// descriptors as well; `usize::MAX` if it does not.
    beside_preambles: AtomicUsize,
}

impl MaxConnections {
    /// A number that the program has set, which stays as it is.
    pub(in crate::server) fn set_to(max: usize) -> Self {
        Self { now: AtomicUsize::new(max), beside_preambles: AtomicUsize::new(usize::MAX) }
    }

    /// A default, and the one that is left beside preambles.
    pub(in crate::server) fn default_of(max: usize, beside_preambles: usize) -> Self {
        Self { now: AtomicUsize::new(max), beside_preambles: AtomicUsize::new(beside_preambles) }
    }

    pub(super) fn get(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, max: usize) {
        self.beside_preambles.store(usize::MAX, Ordering::Relaxed);
        self.now.store(max, Ordering::Relaxed);
    }

    /// There are preambles from here on.
    pub(super) fn leave_room_for_preambles(&self) {
        let max = self.beside_preambles.swap(usize::MAX, Ordering::Relaxed);
        self.now.fetch_min(max, Ordering::Relaxed);
    }
}
