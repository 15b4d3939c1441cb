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

/// A full table forgets one of this many entries that it can spare.
const SPARED: usize = 8;

/// A sweep that leaves this part of a table free is followed by the next one without a pause.
const ENOUGH: usize = 2 * SPARED;

/// Whether an entry is kept when its space is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It is over: without it all is the same.
    Over,
    /// It may be forgotten if no entry is over.
    Spare,
    /// It stays.
    Needed,
}

/// Entries that are over at some time, and are removed when their space is needed. A table that is
/// full of others forgets an eighth of those it can spare, because a peer that can cause many
/// entries must not keep all others out of the table. A peer can't choose which: they are those at
/// every eighth place of a map with a random hash. A table that can spare too few takes no more.
/// Both are counted.
pub(crate) struct Bounded<K, V> {
    entries: HashMap<K, V>,
    most: usize,
    /// The table is swept when it has this many entries.
    sweep_at: usize,
    /// The earliest next sweep, if the last one left too little of the table free.
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

    /// How many entries were not taken, or were forgotten, because the table was full.
    pub(crate) fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Inserts or replaces an entry, and returns whether there was room. `need` says which entries
    /// may be removed to make room.
    pub(crate) fn insert(
        &mut self,
        key: K,
        value: V,
        now: Instant,
        need: impl Fn(&V) -> Need,
    ) -> bool {
        if let Some(known) = self.entries.get_mut(&key) {
            *known = value;
            return true;
        }
        if self.entries.len() >= self.sweep_at && self.sweep_after.is_none_or(|after| after <= now)
        {
            self.sweep(now, need);
        }
        let has_room = self.entries.len() < self.most;
        if has_room {
            self.entries.insert(key, value);
        } else {
            self.untracked += 1;
        }
        has_room
    }

    /// Removes the entries that are over. Between two sweeps the table doubles, a sixteenth of it is
    /// filled, or a second passes, so that a sweep costs an insertion a few entries at most.
    fn sweep(&mut self, now: Instant, need: impl Fn(&V) -> Need) {
        self.entries.retain(|_, value| need(value) != Need::Over);
        if self.entries.len() >= self.most {
            self.forget_some(need);
        }
        self.entries.shrink_to(2 * self.entries.len());
        self.sweep_at = (2 * self.entries.len()).clamp(FEW.min(self.most), self.most);
        let free = self.most - self.entries.len();
        self.sweep_after = (free < self.most / ENOUGH).then(|| now + PAUSE);
    }

    fn forget_some(&mut self, need: impl Fn(&V) -> Need) {
        let mut spared = 0;
        let before = self.entries.len();
        self.entries.retain(|_, value| {
            let is_spare = need(value) == Need::Spare;
            spared += usize::from(is_spare);
            !is_spare || !spared.is_multiple_of(SPARED)
        });
        self.untracked += (before - self.entries.len()) as u64;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::{Bounded, Need};

    /// Inserts so many entries, from this one on, and returns how many were taken.
    fn fill(
        table: &mut Bounded<usize, Need>,
        keys: std::ops::Range<usize>,
        need: Need,
        looks: &Cell<usize>,
    ) -> usize {
        let now = Instant::now();
        let look = |need: &Need| {
            looks.set(looks.get() + 1);
            *need
        };
        keys.filter(|key| table.insert(*key, need, now, look)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_costs_few_looks_at_others_also_in_a_full_table() {
        let mut table = Bounded::new(20_000);
        let looks = Cell::new(0);
        assert_eq!(fill(&mut table, 0..20_000, Need::Needed, &looks), 20_000);
        // At 1024 entries and each time they have doubled.
        assert_eq!((table.len(), looks.get()), (20_000, 1024 * (1 + 2 + 4 + 8 + 16)));
        looks.set(0);
        assert_eq!(fill(&mut table, 20_000..30_000, Need::Needed, &looks), 0);
        // One sweep, and one for what can be spared.
        assert_eq!((table.untracked(), looks.get()), (10_000, 40_000));
        tokio::time::advance(super::PAUSE).await;
        assert_eq!(fill(&mut table, 30_000..30_001, Need::Needed, &looks), 0);
        assert_eq!(looks.get(), 80_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sixteenth_that_was_free_is_filled_before_the_next_sweep_and_less_takes_a_second() {
        for (over, is_paused) in [(99, true), (100, false)] {
            let mut table = Bounded::new(1600);
            let looks = Cell::new(0);
            fill(&mut table, 0..1600, Need::Needed, &looks);
            fill(&mut table, 0..over, Need::Over, &looks);
            assert_eq!(fill(&mut table, 2000..2001, Need::Needed, &looks), 1);
            assert_eq!(table.len(), 1601 - over);
            fill(&mut table, 3000..3000 + over - 1, Need::Over, &looks);
            let taken = fill(&mut table, 4000..4001, Need::Needed, &looks);
            assert_eq!((table.len() == 1600, taken == 0), (is_paused, is_paused), "{over}");
        }
    }
}
