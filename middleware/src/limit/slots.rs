//! The slots that all services of one layer share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::crowd::{Choice, Crowd};
use crate::{Closing, MakeRoom, Peer};

/// How many refusals of one layer may be under way at the same time, with their text and lingering
/// close; further connections are closed at once.
pub const MAX_REFUSALS: usize = 256;

/// The slots of one layer.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) max: usize,
    count: Count,
    rules: Option<MakeRoom>,
    /// One permit for each refusal that may be under way.
    pub(super) refusals: Arc<Semaphore>,
}

#[derive(Debug)]
enum Count {
    Total(Arc<Cap>),
    PerListener(Mutex<BTreeMap<usize, Arc<Cap>>>),
}

impl Slots {
    pub(super) fn total(max: usize, rules: Option<MakeRoom>) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self::new(max, Count::Total(Cap::new(max, rules)), rules)
    }

    pub(super) fn per_listener(max: usize, rules: Option<MakeRoom>) -> Self {
        Self::new(max, Count::PerListener(Mutex::default()), rules)
    }

    fn new(max: usize, count: Count, rules: Option<MakeRoom>) -> Self {
        Self { max, count, rules, refusals: Arc::new(Semaphore::new(MAX_REFUSALS)) }
    }

    /// The same number of slots, all of them free, under other rules.
    pub(super) fn with_rules(&self, rules: Option<MakeRoom>) -> Self {
        match self.count {
            Count::Total(_) => Self::total(self.max, rules),
            Count::PerListener(_) => Self::per_listener(self.max, rules),
        }
    }

    /// The rules by which connections make room, if there are any.
    pub(super) fn rules(&self) -> Option<MakeRoom> {
        self.rules
    }

    /// The one count, if there is one for all listeners.
    pub(super) fn shared(&self) -> Option<&Arc<Cap>> {
        match &self.count {
            Count::Total(cap) => Some(cap),
            Count::PerListener(_) => None,
        }
    }

    /// The count for connections of this listener.
    pub(super) fn of(&self, listener: usize) -> Arc<Cap> {
        match &self.count {
            Count::Total(cap) => Arc::clone(cap),
            Count::PerListener(caps) => {
                let mut caps = caps.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(caps.entry(listener).or_insert_with(|| Cap::new(self.max, self.rules)))
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
            Count::Total(cap) => vec![f(cap.permits.available_permits())],
            Count::PerListener(caps) => {
                let caps = caps.lock().unwrap_or_else(PoisonError::into_inner);
                caps.values().map(|cap| f(cap.permits.available_permits())).collect()
            }
        }
    }
}

/// The slots of one count and, if connections make room for others, the connections that hold them.
#[derive(Debug)]
pub(super) struct Cap {
    pub(super) permits: Arc<Semaphore>,
    max: usize,
    crowd: Option<Mutex<Crowd>>,
}

impl Cap {
    fn new(max: usize, rules: Option<MakeRoom>) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max)),
            max,
            crowd: rules.map(|_| Mutex::default()),
        })
    }

    /// Has a connection make room for one of this peer's. True if one was aborted.
    pub(super) fn make_room(&self, newcomer: &Peer, rules: &MakeRoom) -> bool {
        let choice = self.with_crowd(|crowd| crowd.make_room_now(self.max, newcomer.host(), rules));
        let Some(Choice::Abort(closing, reason)) = choice else { return false };
        // Not called under the lock, because it runs a waker.
        closing.abort_for(reason);
        true
    }

    pub(super) fn enter(&self, closing: &Closing) -> Option<Closing> {
        self.with_crowd(|crowd| crowd.insert(closing.clone())).map(|()| closing.clone())
    }

    pub(super) fn leave(&self, closing: &Closing) {
        self.with_crowd(|crowd| crowd.remove(closing));
    }

    fn with_crowd<T>(&self, f: impl FnOnce(&mut Crowd) -> T) -> Option<T> {
        // No user code runs under the lock.
        Some(f(&mut self.crowd.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(super) fn try_take(self: &Arc<Self>) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }
}
