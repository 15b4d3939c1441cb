//! A map with a limit on its entries, for state that peers can cause.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// A table with fewer entries than this is not swept.
const FEW: usize = 1024;

/// The pause between two sweeps of a table that stays full.
const PAUSE: Duration = Duration::from_secs(1);

/// Entries that are over at some time, and are removed when their space is needed. A table that is
/// full of others takes no more, and counts those it did not take.
pub(crate) struct Bounded<K, V> {
    entries: HashMap<K, V>,
    most: usize,
    /// The table is swept when it has this many entries.
    sweep_at: usize,
    /// The earliest next sweep, if the last one left the table more than half full.
    sweep_after: Option<Instant>,
    untracked: u64,
}

impl<K: Eq + Hash, V> Bounded<K, V> {
    /// A table for at most `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            most,
            sweep_at: FEW.min(most),
            sweep_after: None,
            untracked: 0,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries were not taken, because the table was full.
    pub(crate) fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Inserts or replaces an entry, and returns whether there was room. Entries for which
    /// `is_over` returns true may be removed to make room.
    pub(crate) fn insert(
        &mut self,
        key: K,
        value: V,
        now: Instant,
        is_over: impl Fn(&V) -> bool,
    ) -> bool {
        if let Some(known) = self.entries.get_mut(&key) {
            *known = value;
            return true;
        }
        if self.entries.len() >= self.sweep_at && self.sweep_after.is_none_or(|after| after <= now)
        {
            self.sweep(now, is_over);
        }
        let has_room = self.entries.len() < self.most;
        if has_room {
            self.entries.insert(key, value);
        } else {
            self.untracked += 1;
        }
        has_room
    }

    /// Removes the entries that are over. Between two sweeps the table doubles, or a second passes,
    /// so that a sweep costs an insertion a few entries at most.
    fn sweep(&mut self, now: Instant, is_over: impl Fn(&V) -> bool) {
        self.entries.retain(|_, value| !is_over(value));
        self.entries.shrink_to(2 * self.entries.len());
        self.sweep_at = (2 * self.entries.len()).clamp(FEW.min(self.most), self.most);
        self.sweep_after = (self.entries.len() > self.most / 2).then(|| now + PAUSE);
    }
}

impl<K, V> fmt::Debug for Bounded<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded")
            .field("entries", &self.entries.len())
            .field("untracked", &self.untracked)
            .finish()
    }
}
