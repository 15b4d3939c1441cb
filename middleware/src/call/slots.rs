//! The slots for calls, and the queue for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The slots that all services of one layer share.
///
/// While slots are free it is one counter. The lock is taken only if there is no free slot, or if
/// one is released while calls wait.
#[derive(Debug)]
pub(super) struct CallSlots {
    pub(super) max: usize,
    taken: AtomicUsize,
    /// How many wait in the queue.
    waiting: AtomicUsize,
    queue: Mutex<CallQueue>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct CallQueue {
    /// Wakers by ticket number: the lowest has waited longest.
    waiting: BTreeMap<u64, Waker>,
    /// Tickets for which a slot has been taken already.
    granted: BTreeSet<u64>,
}

impl CallSlots {
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

    fn lock(&self) -> MutexGuard<'_, CallQueue> {
        // Consistent even after a panic: wakers run after the change.
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

    /// A slot, if one is free and no call waits for it.
    #[inline]
    pub(super) fn take_now(self: &Arc<Self>) -> Option<CallSlot> {
        (self.waiting.load(SeqCst) == 0 && self.try_take()).then(|| CallSlot(Arc::clone(self)))
    }

    /// A slot above the limit, for a call that was made without waiting.
    pub(super) fn take_above_max(self: &Arc<Self>) -> CallSlot {
        self.taken.fetch_add(1, SeqCst);
        CallSlot(Arc::clone(self))
    }

    /// A slot, or a place in the queue under `ticket`.
    #[inline]
    pub(super) fn poll_take(
        self: &Arc<Self>,
        ticket: &mut Option<QueueTicket>,
        cx: &mut Context<'_>,
    ) -> Poll<CallSlot> {
        if ticket.is_none()
            && let Some(slot) = self.take_now()
        {
            return Poll::Ready(slot);
        }
        self.poll_queue(ticket, cx)
    }

    #[cold]
    fn poll_queue(
        self: &Arc<Self>,
        held: &mut Option<QueueTicket>,
        cx: &mut Context<'_>,
    ) -> Poll<CallSlot> {
        let ticket = held.get_or_insert_with(|| QueueTicket {
            slots: Arc::clone(self),
            number: self.next.fetch_add(1, SeqCst),
        });
        let number = ticket.number;
        let waker = cx.waker().clone();
        let mut queue = self.lock();
        if queue.granted.remove(&number) {
            drop(queue);
            *held = None;
            return Poll::Ready(CallSlot(Arc::clone(self)));
        }
        // Dropped after the lock is released, as all wakers are: dropping a waker may run other
        // code.
        let _earlier = queue.waiting.insert(number, waker);
        self.waiting.store(queue.waiting.len(), SeqCst);
        // Tried again after queueing: a slot may have been released before this call was seen to
        // wait.
        let first = queue.waiting.first_key_value().is_some_and(|(first, _)| *first == number);
        if !first || !self.try_take() {
            drop(queue);
            return Poll::Pending;
        }
        drop(queue);
        // Dropping the ticket removes it from the queue.
        *held = None;
        Poll::Ready(CallSlot(Arc::clone(self)))
    }

    #[inline]
    fn give_back(&self) {
        self.taken.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.grant();
        }
    }

    /// Takes free slots for the calls that have waited longest.
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

/// A slot that is taken; released when dropped.
#[derive(Debug)]
pub(super) struct CallSlot(Arc<CallSlots>);

impl Drop for CallSlot {
    #[inline]
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct QueueTicket {
    slots: Arc<CallSlots>,
    number: u64,
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let mut queue = self.slots.lock();
        let _waker = queue.waiting.remove(&self.number);
        self.slots.waiting.store(queue.waiting.len(), SeqCst);
        let granted = queue.granted.remove(&self.number);
        drop(queue);
        if granted {
            self.slots.give_back();
        } else if self.slots.waiting.load(SeqCst) > 0 {
            // It may have been the first in the queue, for which the others waited.
            self.slots.grant();
        }
    }
}
