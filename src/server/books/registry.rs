//! The open connections, so that a drain can wake each by its own waker.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ropewalk_middleware::{Closing, ConnectionInfo};
use slab::Slab;

/// The number of locks: all workers add and remove connections, and would wait for a single lock.
pub(in crate::server) const SHARDS: usize = 16;

#[derive(Debug, Default)]
pub(in crate::server) struct Registry {
    shards: [Mutex<Slab<Closing>>; SHARDS],
    next: AtomicUsize,
    /// The signal that was given to all connections and is given to later ones too: one of the four
    /// below.
    told: AtomicU8,
}

/// No signal.
const NOBODY: u8 = 0;
/// All connections drain.
const ALL: u8 = 1;
/// All connections drain, because a new process has taken over.
const SUCCEEDED: u8 = 2;
/// All connections abort.
const ABORTED: u8 = 3;

/// The position of a connection in the registry: its slot times [`SHARDS`], plus its shard. It is
/// one number, because each connection has it, and eight bytes more could cost its task 128.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct RegistrySlot(u32);

impl Registry {
    fn shard(&self, shard: usize) -> MutexGuard<'_, Slab<Closing>> {
        self.shards[shard % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::server) fn add(&self, closing: Closing) -> RegistrySlot {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut slots = self.shard(shard);
        // Read under the lock: a connection that is added after a drain or abort has passed this
        // shard sees the signal here; one added before received it from `each`.
        tell(self.told.load(Ordering::Acquire), &closing);
        // So many connections do not fit into any memory.
        let slot = u32::try_from(slots.insert(closing) * SHARDS + shard).unwrap_or(u32::MAX);
        RegistrySlot(slot)
    }

    pub(in crate::server) fn remove(&self, place: RegistrySlot) {
        let slot = place.0 as usize;
        drop(self.shard(slot).try_remove(slot / SHARDS));
    }

    pub(in crate::server) fn drain_all(&self, succeeded: bool) {
        self.tell_all(if succeeded { SUCCEEDED } else { ALL });
    }

    pub(in crate::server) fn abort_all(&self) {
        self.tell_all(ABORTED);
    }

    fn tell_all(&self, what: u8) {
        // An abort is not taken back by a drain.
        self.told.fetch_max(what, Ordering::AcqRel);
        self.each(|closing| tell(what, closing));
    }

    /// The connections of one shard, under its lock.
    pub(super) fn each_of(&self, shard: usize, f: impl FnMut(&Closing)) {
        self.shard(shard).iter().map(|(_, closing)| closing).for_each(f);
    }

    /// The connections whose buffers use memory, with the bytes they use.
    pub(in crate::server) fn holders(&self) -> Vec<(usize, Closing)> {
        let mut holders = Vec::new();
        for shard in 0..SHARDS {
            let shard = self.shard(shard);
            let sizes = shard.iter().map(|(_, closing)| (closing.buffered(), closing));
            holders.extend(
                sizes
                    .filter(|(bytes, _)| *bytes > 0)
                    .map(|(bytes, closing)| (bytes, closing.clone())),
            );
        }
        holders
    }

    /// The open connections for which `wanted` returns true.
    pub(in crate::server) fn connections(
        &self,
        mut wanted: impl FnMut(&ConnectionInfo) -> bool,
    ) -> Vec<ConnectionInfo> {
        let mut connections = Vec::new();
        for shard in 0..SHARDS {
            // `wanted` is user code, so it is not called under the lock.
            let all: Vec<ConnectionInfo> =
                self.shard(shard).iter().map(|(_, closing)| closing.info()).collect();
            connections.extend(all.into_iter().filter(&mut wanted));
        }
        connections
    }

    /// Looks at all open connections, under the locks of the registry.
    pub(super) fn each_open(&self, mut f: impl FnMut(&ConnectionInfo)) {
        for shard in 0..SHARDS {
            self.shard(shard).iter().for_each(|(_, closing)| f(&closing.info()));
        }
    }

    /// Calls `tell` with each open connection. It may wake tasks, so it is not called under a lock.
    pub(in crate::server) fn each(&self, tell: impl Fn(&Closing)) {
        for shard in 0..SHARDS {
            let connections: Vec<Closing> =
                self.shard(shard).iter().map(|(_, closing)| closing.clone()).collect();
            connections.iter().for_each(&tell);
        }
    }
}

fn tell(what: u8, closing: &Closing) {
    match what {
        NOBODY => {}
        ABORTED => closing.abort(),
        SUCCEEDED => closing.drain_for_successor(),
        _ => closing.drain(),
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_middleware::{Addr, Connection, Peer};

    use super::Registry;

    #[tokio::test]
    async fn a_connection_that_comes_when_all_were_told_is_told_too() {
        let (come, _others) = tokio::net::UnixStream::pair().unwrap();
        let closing = Connection::new(come, Peer::new(Addr::Memory)).closing();
        let registry = Registry::default();
        registry.abort_all();
        registry.drain_all(false);
        registry.add(closing.clone());
        assert!(closing.is_aborted());
    }
}
