//! Which keys have offended, and which are banned.

use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::bounded::{Bounded, Need};

/// How many offences lead to a ban, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRules {
    offences: u32,
    within: Duration,
    ban_for: Duration,
}

impl BanRules {
    /// A peer is banned for `ban_for` at its `offences`th offence within `within` of the first one
    /// of them.
    ///
    /// # Panics
    ///
    /// Panics if `offences` is 0.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ropewalk_middleware::BanRules;
    ///
    /// // Five wrong passwords in ten minutes lead to an hour.
    /// let rules = BanRules::new(5, Duration::from_secs(600), Duration::from_secs(3600));
    /// ```
    #[must_use]
    pub fn new(offences: u32, within: Duration, ban_for: Duration) -> Self {
        assert!(offences > 0, "with no offence needed, every peer would be banned");
        Self { offences, within, ban_for }
    }
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
enum OffenceRecord {
    /// So many offences since then.
    Offended { since: Instant, offences: u32 },
    /// Banned until then; for ever if that is beyond the clock's range.
    Banned { until: Option<Instant> },
}

impl OffenceRecord {
    fn is_over(&self, within: Duration, now: Instant) -> bool {
        match self {
            Self::Offended { since, .. } => now - *since > within,
            Self::Banned { until } => until.is_some_and(|until| until <= now),
        }
    }

    /// A ban stays for its time. Of a crowd of suspects some are forgotten, so that there is room
    /// for others.
    fn need(&self, within: Duration, now: Instant) -> Need {
        match self {
            _ if self.is_over(within, now) => Need::Over,
            Self::Offended { .. } => Need::Spare,
            Self::Banned { .. } => Need::Needed,
        }
    }
}

/// The table of one layer.
#[derive(Debug)]
pub(super) struct Offenders<K>(Mutex<OffenderTable<K>>);

#[derive(Debug)]
struct OffenderTable<K> {
    rules: BanRules,
    records: Bounded<K, OffenceRecord>,
    bans: u64,
}

impl<K: Clone + Eq + Hash> Offenders<K> {
    /// A table of at most `most` keys.
    pub(super) fn new(rules: BanRules, most: usize) -> Self {
        Self(Mutex::new(OffenderTable { rules, records: Bounded::new(most), bans: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, OffenderTable<K>> {
        // Each change is one insertion, so the table is consistent even after the panic of a key.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_banned(&self, key: &K) -> bool {
        let table = self.lock();
        match table.records.get(key) {
            Some(OffenceRecord::Banned { until }) => {
                until.is_none_or(|until| Instant::now() < until)
            }
            _ => false,
        }
    }

    /// Counts offences, and returns whether the key is banned now.
    pub(super) fn offend(&self, key: &K, offences: u32) -> bool {
        let now = Instant::now();
        let mut table = self.lock();
        let within = table.rules.within;
        let (since, before) = match table.records.get(key) {
            Some(record) if record.is_over(within, now) => (now, 0),
            Some(OffenceRecord::Banned { .. }) => return true,
            Some(OffenceRecord::Offended { since, offences }) => (*since, *offences),
            None => (now, 0),
        };
        let offences = before.saturating_add(offences);
        if offences >= table.rules.offences {
            let ban_for = table.rules.ban_for;
            return table.ban(key.clone(), ban_for, now);
        }
        table.records.insert(
            key.clone(),
            OffenceRecord::Offended { since, offences },
            now,
            |old| old.need(within, now),
        );
        false
    }

    pub(super) fn ban(&self, key: K, time: Duration) -> bool {
        self.lock().ban(key, time, Instant::now())
    }

    pub(super) fn pardon(&self, key: &K) -> bool {
        let mut table = self.lock();
        let within = table.rules.within;
        table.records.remove(key).is_some_and(|record| !record.is_over(within, Instant::now()))
    }

    /// The banned keys, with the time that is left of each ban.
    pub(super) fn banned(&self) -> Vec<(K, Duration)> {
        let now = Instant::now();
        let table = self.lock();
        let left = |record: &OffenceRecord| match record {
            OffenceRecord::Banned { until: None } => Some(Duration::MAX),
            OffenceRecord::Banned { until: Some(until) } => {
                Some(*until - now).filter(|left| !left.is_zero())
            }
            OffenceRecord::Offended { .. } => None,
        };
        table
            .records
            .iter()
            .filter_map(|(key, record)| Some((key.clone(), left(record)?)))
            .collect()
    }

    /// How many keys have offences that may still lead to a ban.
    pub(super) fn suspects(&self) -> usize {
        let now = Instant::now();
        let table = self.lock();
        let counts = |record: &OffenceRecord| {
            matches!(record, OffenceRecord::Offended { .. })
                && !record.is_over(table.rules.within, now)
        };
        table.records.iter().filter(|(_, record)| counts(record)).count()
    }

    pub(super) fn bans(&self) -> u64 {
        self.lock().bans
    }

    pub(super) fn untracked(&self) -> u64 {
        self.lock().records.untracked()
    }

    pub(super) fn rules(&self) -> BanRules {
        self.lock().rules
    }

    pub(super) fn set_rules(&self, rules: BanRules) {
        self.lock().rules = rules;
    }
}

impl<K: Clone + Eq + Hash> OffenderTable<K> {
    /// Bans a key, if there is room in the table.
    fn ban(&mut self, key: K, time: Duration, now: Instant) -> bool {
        let within = self.rules.within;
        let record = OffenceRecord::Banned { until: now.checked_add(time) };
        let is_banned = self.records.insert(key, record, now, |old| old.need(within, now));
        self.bans += u64::from(is_banned);
        is_banned
    }
}
