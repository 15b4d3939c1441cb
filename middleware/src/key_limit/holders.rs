//! Which connections have which key.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limit::Place;

/// The connections under one layer, and the counts of their keys.
pub(super) struct KeyHolders<K>(Mutex<Held<K>>);

struct Held<K> {
    max: usize,
    /// The keys with a limit of their own.
    limits: HashMap<K, usize>,
    /// An entry for each key that a connection has.
    counts: HashMap<K, usize>,
    /// Every open connection by its number, with its key.
    connections: HashMap<u64, Option<K>>,
}

/// The result of a connection's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyEntry {
    Counted,
    /// It is counted already: the layer is around it twice.
    Known,
    /// Its key is at the limit.
    Full,
}

impl<K: Clone + Eq + Hash> KeyHolders<K> {
    pub(super) fn new(max: usize) -> Arc<Self> {
        let (limits, counts, connections) = Default::default();
        Arc::new(Self(Mutex::new(Held { max, limits, counts, connections })))
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        // A key that panics when it is compared leaves a count that is too high at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection.
    pub(super) fn enter(&self, id: u64, key: Option<K>) -> KeyEntry {
        let mut held = self.lock();
        if held.connections.contains_key(&id) {
            return KeyEntry::Known;
        }
        if let Some(key) = &key
            && !held.count(key)
        {
            return KeyEntry::Full;
        }
        held.connections.insert(id, key);
        KeyEntry::Counted
    }

    /// Gives a connection another key, or takes it away. False, and nothing changes, if the key is
    /// at its limit or the connection is not open under this layer.
    pub(super) fn change(&self, id: u64, key: Option<K>) -> bool {
        let mut held = self.lock();
        let Some(before) = held.connections.get(&id).cloned() else { return false };
        if before == key {
            return true;
        }
        if let Some(key) = &key
            && !held.count(key)
        {
            return false;
        }
        if let Some(before) = &before {
            held.discount(before);
        }
        held.connections.insert(id, key);
        true
    }

    pub(super) fn max(&self) -> usize {
        self.lock().max
    }

    pub(super) fn set_max(&self, max: usize) {
        self.lock().max = max;
    }

    pub(super) fn set_limits(&self, limits: HashMap<K, usize>) {
        // The old ones are dropped after the lock is released.
        let _old = std::mem::replace(&mut self.lock().limits, limits);
    }

    pub(super) fn active(&self, key: &K) -> usize {
        self.lock().counts.get(key).copied().unwrap_or(0)
    }

    pub(super) fn keys(&self) -> usize {
        self.lock().counts.len()
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections.len()
    }

    pub(super) fn largest(&self, most: usize) -> Vec<(K, usize)> {
        let mut counts: Vec<_> =
            self.lock().counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(most);
        counts
    }
}

impl<K: Clone + Eq + Hash> Held<K> {
    fn count(&mut self, key: &K) -> bool {
        let max = self.limits.get(key).copied().unwrap_or(self.max);
        match self.counts.get_mut(key) {
            Some(count) if *count >= max => return false,
            Some(count) => *count += 1,
            None if max == 0 => return false,
            None => drop(self.counts.insert(key.clone(), 1)),
        }
        true
    }

    fn discount(&mut self, key: &K) {
        let Some(count) = self.counts.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(key);
        }
    }
}

/// Forgets a connection. An object, so that a connection's future doesn't name the type of the key.
trait Leave: Send + Sync {
    fn leave(&self, id: u64);
}

impl<K: Clone + Eq + Hash + Send> Leave for KeyHolders<K> {
    fn leave(&self, id: u64) {
        let mut held = self.lock();
        if let Some(Some(key)) = held.connections.remove(&id) {
            held.discount(&key);
        }
    }
}

/// A connection under a limit on its key; when dropped it no longer counts.
pub struct KeyPlace {
    /// `None` if the connection is counted by an outer service of the same layer.
    holders: Option<Arc<dyn Leave>>,
    id: u64,
}

impl KeyPlace {
    pub(super) fn new<K: Clone + Eq + Hash + Send + 'static>(
        holders: &Arc<KeyHolders<K>>,
        id: u64,
    ) -> Self {
        let holders: Arc<KeyHolders<K>> = Arc::clone(holders);
        Self { holders: Some(holders), id }
    }

    pub(super) fn counted_already(id: u64) -> Self {
        Self { holders: None, id }
    }
}

impl Place for KeyPlace {}

impl Drop for KeyPlace {
    fn drop(&mut self) {
        if let Some(holders) = &self.holders {
            holders.leave(self.id);
        }
    }
}

impl fmt::Debug for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPlace").field("id", &self.id).finish_non_exhaustive()
    }
}
