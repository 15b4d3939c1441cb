//! The open connections, so that a drain can wake each by its own waker.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ropewalk_middleware::Closing;
use slab::Slab;

/// Connections come and go on every worker; this many locks keep them from queueing on one.
const SHARDS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Registry {
    shards: [Mutex<Slab<Closing>>; SHARDS],
    next: AtomicUsize,
    draining: AtomicBool,
}

/// Where a connection stands in the registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    shard: usize,
    slot: usize,
}

impl Registry {
    fn shard(&self, shard: usize) -> MutexGuard<'_, Slab<Closing>> {
        self.shards[shard % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, closing: Closing) -> Place {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut slots = self.shard(shard);
        // Asked under the lock: who comes after the drain passed here sees the flag, who came before was told.
        if self.draining.load(Ordering::Acquire) {
            closing.drain();
        }
        let slot = slots.insert(closing);
        Place { shard, slot }
    }

    pub(super) fn remove(&self, place: Place) {
        drop(self.shard(place.shard).try_remove(place.slot));
    }

    pub(super) fn drain_all(&self) {
        self.draining.store(true, Ordering::Release);
        self.each(Closing::drain);
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
