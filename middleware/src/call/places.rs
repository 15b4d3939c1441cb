//! The places for calls, and the queue for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What all services of one layer share.
///
/// With room it is one counter. The lock is taken only where no place was found, and where one is given back to those
/// that wait.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) max: usize,
    taken: AtomicUsize,
    /// How many wait in the queue.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// By their tickets: the lowest has waited longest.
    waiting: BTreeMap<u64, Waker>,
    /// Tickets whose place is taken for them already.
    granted: BTreeSet<u64>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Whole whatever panicked: a waker's panic comes after the change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn try_take(&self) -> bool {
        let mut taken = self.taken.load(SeqCst);
        while taken < self.max {
            match self.taken.compare_exchange_weak(taken, taken + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    /// A place, if there is one and nobody waits for it.
    #[inline]
    pub(super) fn take_now(self: &Arc<Self>) -> Option<Place> {
        (self.waiting.load(SeqCst) == 0 && self.try_take()).then(|| Place(Arc::clone(self)))
    }

    /// A place beyond the number there is, for a call that was not asked to wait.
    pub(super) fn take_anyway(self: &Arc<Self>) -> Place {
        self.taken.fetch_add(1, SeqCst);
        Place(Arc::clone(self))
    }

    /// A place, or a place in the queue under `ticket`.
    #[inline]
    pub(super) fn poll_take(self: &Arc<Self>, ticket: &mut Option<Ticket>, cx: &mut Context<'_>) -> Poll<Place> {
        if ticket.is_none()
            && let Some(place) = self.take_now()
        {
            return Poll::Ready(place);
        }
        self.poll_queue(ticket, cx)
    }

    #[cold]
    fn poll_queue(self: &Arc<Self>, slot: &mut Option<Ticket>, cx: &mut Context<'_>) -> Poll<Place> {
        let ticket =
            slot.get_or_insert_with(|| Ticket { places: Arc::clone(self), number: self.next.fetch_add(1, SeqCst) });
        let (number, waker) = (ticket.number, cx.waker().clone());
        let mut queue = self.lock();
        if queue.granted.remove(&number) {
            drop(queue);
            *slot = None;
            return Poll::Ready(Place(Arc::clone(self)));
        }
        // Dropped after the lock is free, as all wakers are: nobody knows what comes with their last reference.
        let _earlier = queue.waiting.insert(number, waker);
        self.waiting.store(queue.waiting.len(), SeqCst);
        // Only now, as a place may have been given back while nobody was seen to wait.
        let first = queue.waiting.first_key_value().is_some_and(|(first, _)| *first == number);
        if !first || !self.try_take() {
            drop(queue);
            return Poll::Pending;
        }
        drop(queue);
        // It leaves the queue with its ticket.
        *slot = None;
        Poll::Ready(Place(Arc::clone(self)))
    }

    #[inline]
    fn give_back(&self) {
        self.taken.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.grant();
        }
    }

    /// Takes free places for those that have waited longest.
    #[cold]
    fn grant(&self) {
        loop {
            let mut queue = self.lock();
            if queue.waiting.is_empty() || !self.try_take() {
                return;
            }
            let Some((number, waker)) = queue.waiting.pop_first() else { return };
            self.waiting.store(queue.waiting.len(), SeqCst);
            queue.granted.insert(number);
            drop(queue);
            waker.wake();
        }
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Ticket {
    places: Arc<Places>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queue = self.places.lock();
        let _waker = queue.waiting.remove(&self.number);
        self.places.waiting.store(queue.waiting.len(), SeqCst);
        let granted = queue.granted.remove(&self.number);
        drop(queue);
        if granted {
            self.places.give_back();
        } else if self.places.waiting.load(SeqCst) > 0 {
            // It may have been the first one, and the others waited behind it.
            self.places.grant();
        }
    }
}
