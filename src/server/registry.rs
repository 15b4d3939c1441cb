//! The open connections, so that a drain can wake each by its own waker.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ropewalk_middleware::Closing;
use slab::Slab;

/// Connections come and go on every worker; this many locks keep them from queueing on one.
const SHARDS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Registry {
    shards: [Mutex<Slab<Closing>>; SHARDS],
    next: AtomicUsize,
    draining: AtomicU8,
}

/// Nobody is to drain.
const NOBODY: u8 = 0;
/// Everybody is to drain.
const ALL: u8 = 1;
/// The same, for another process has taken the server's place.
const SUCCEEDED: u8 = 2;

/// Where a connection stands in the registry: its slot times the shards, and its shard. One number, as each connection has
/// it, and eight bytes more may cost its task 128.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(usize);

impl Registry {
    fn shard(&self, shard: usize) -> MutexGuard<'_, Slab<Closing>> {
        self.shards[shard % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, closing: Closing) -> Place {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut slots = self.shard(shard);
        // Asked under the lock: who comes after the drain passed here sees the flag, who came before was told.
        tell(self.draining.load(Ordering::Acquire), &closing);
        Place(slots.insert(closing) * SHARDS + shard)
    }

    pub(super) fn remove(&self, place: Place) {
        drop(self.shard(place.0).try_remove(place.0 / SHARDS));
    }

    pub(super) fn drain_all(&self, succeeded: bool) {
        let draining = if succeeded { SUCCEEDED } else { ALL };
        self.draining.store(draining, Ordering::Release);
        self.each(|closing| tell(draining, closing));
    }

    pub(super) fn abort_all(&self) {
        self.each(Closing::abort);
    }

    /// Wakers are not run under a lock.
    fn each(&self, tell: impl Fn(&Closing)) {
        for shard in 0..SHARDS {
            let connections: Vec<Closing> = self.shard(shard).iter().map(|(_, closing)| closing.clone()).collect();
            connections.iter().for_each(&tell);
        }
    }
}

fn tell(draining: u8, closing: &Closing) {
    match draining {
        NOBODY => {}
        SUCCEEDED => closing.drain_for_successor(),
        _ => closing.drain(),
    }
}
