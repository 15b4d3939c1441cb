//! The places there are: what all services of one layer share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// How many refused connections of one layer are told so and read out at once; those beyond are closed at once.
pub const MAX_REFUSALS: usize = 256;

/// The count of one layer.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) max: usize,
    count: Count,
    /// One permit for each refusal that may be under way.
    pub(super) refusals: Arc<Semaphore>,
}

#[derive(Debug)]
enum Count {
    Total(Arc<Semaphore>),
    PerListener(Mutex<BTreeMap<usize, Arc<Semaphore>>>),
}

impl Places {
    pub(super) fn total(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self::new(max, Count::Total(Arc::new(Semaphore::new(max))))
    }

    pub(super) fn per_listener(max: usize) -> Self {
        Self::new(max, Count::PerListener(Mutex::default()))
    }

    fn new(max: usize, count: Count) -> Self {
        Self { max, count, refusals: Arc::new(Semaphore::new(MAX_REFUSALS)) }
    }

    /// The one count, where there is one for all listeners.
    pub(super) fn shared(&self) -> Option<&Arc<Semaphore>> {
        match &self.count {
            Count::Total(count) => Some(count),
            Count::PerListener(_) => None,
        }
    }

    /// The count that a connection of this listener falls under.
    pub(super) fn of(&self, listener: usize) -> Arc<Semaphore> {
        match &self.count {
            Count::Total(count) => Arc::clone(count),
            Count::PerListener(counts) => {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(counts.entry(listener).or_insert_with(|| Arc::new(Semaphore::new(self.max))))
            }
        }
    }

    pub(super) fn active(&self) -> usize {
        self.each(|left| self.max - left).into_iter().sum()
    }

    pub(super) fn available(&self) -> usize {
        self.each(|left| left).into_iter().min().unwrap_or(self.max)
    }

    fn each(&self, f: impl Fn(usize) -> usize) -> Vec<usize> {
        match &self.count {
            Count::Total(count) => vec![f(count.available_permits())],
            Count::PerListener(counts) => {
                let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                counts.values().map(|count| f(count.available_permits())).collect()
            }
        }
    }
}
