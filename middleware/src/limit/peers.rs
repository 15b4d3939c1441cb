//! How many connections each peer has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::slots::MAX_REFUSALS;
use crate::connection::host;

/// The counts of one layer: an entry for each peer that has a connection.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
    /// One permit for each refusal that may be under way.
    pub(super) refusals: Arc<Semaphore>,
}

impl Peers {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            counts: Mutex::default(),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Only counts change under the lock, so they are consistent even after a panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for one more connection of this peer; `None` if it is at the limit.
    pub(super) fn enter(self: &Arc<Self>, ip: Option<IpAddr>) -> Option<PeerPlace> {
        let peer = ip.map(host);
        if let Some(peer) = peer {
            match self.lock().entry(peer) {
                Entry::Occupied(count) if *count.get() >= self.max => return None,
                Entry::Occupied(mut count) => *count.get_mut() += 1,
                Entry::Vacant(_) if self.max == 0 => return None,
                Entry::Vacant(none) => {
                    none.insert(1);
                }
            }
        }
        Some(PeerPlace { peers: Arc::clone(self), peer })
    }

    pub(super) fn of(&self, ip: IpAddr) -> usize {
        self.lock().get(&host(ip)).copied().unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A connection's slot under the limit of its peer; released when dropped.
#[derive(Debug)]
pub struct PeerPlace {
    peers: Arc<Peers>,
    /// `None` if the peer has no address and is not counted.
    peer: Option<IpAddr>,
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        if let Entry::Occupied(mut count) = self.peers.lock().entry(peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
