//! What callers and the connection's task share, under one lock: the places, the queue, the slots
//! of the calls.
//!
//! Wakers are woken, and values of the user dropped, when the lock is free again: both run code of
//! the user's.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use slab::Slab;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{Cause, ClientError};
use super::state::{ClientCounts, State};
use crate::wire::after;

/// A call.
pub(super) enum Slot<Req, Ans> {
    Queued {
        req: Req,
        waker: Option<Waker>,
    },
    /// Encoded, or about to be.
    Out {
        waker: Option<Waker>,
    },
    Done(Result<Ans, ClientError>),
    /// Encoded, and its caller has gone.
    Abandoned,
}

/// A caller in `poll_ready`.
pub(super) struct Waiter {
    pub(super) waker: Option<Waker>,
    pub(super) since: Instant,
    pub(super) granted: Option<Grant>,
}

/// What a caller gets that has waited.
pub(super) enum Grant {
    /// A place, after so long.
    Place(Duration),
    /// It may call, and the call fails.
    Refused(ClientError),
}

/// Whether calls are let in.
pub(super) enum Gate {
    /// There is a connection.
    Open,
    /// There is no connection: callers wait.
    Shut,
    /// Calls fail.
    Refusing(ClientError),
}

/// A queued call, and since when its time runs: `None` until the task has seen it, so that no
/// caller asks for the time.
pub(super) struct Queued {
    pub(super) key: usize,
    pub(super) since: Option<Instant>,
}

/// What the leaf tells the task of a connection that has ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The client is done.
    Drained,
    /// It is to be replaced at once.
    Aged,
}

pub(super) struct Shared<Req, Ans> {
    inner: Mutex<Inner<Req, Ans>>,
    task: AtomicWaker,
    /// How many services there are: clones of one another.
    pub(super) services: AtomicUsize,
    pub(super) state: watch::Sender<State>,
    /// How long a call may take, from its wait for a place on.
    pub(super) patience: Duration,
}

pub(super) struct Inner<Req, Ans> {
    pub(super) slots: Slab<Slot<Req, Ans>>,
    pub(super) queue: VecDeque<Queued>,
    /// So many of the queue's first calls were seen by the task.
    seen: usize,
    pub(super) waiters: Slab<Waiter>,
    /// Those of them that wait still, in their order.
    pub(super) waiting: VecDeque<usize>,
    pub(super) free: usize,
    pub(super) places: usize,
    /// The task was woken, and has not looked yet.
    woken: bool,
    pub(super) gate: Gate,
    /// The client drains, until then at most.
    pub(super) draining: Option<Instant>,
    /// Until when the connection of this attempt must be prepared.
    pub(super) prepared_by: Option<Instant>,
    /// Since when there is a connection.
    pub(super) opened: Option<Instant>,
    /// A line has the callers, and not the task.
    pub(super) serving: bool,
    pub(super) outcome: Option<Outcome>,
    pub(super) counts: ClientCounts,
}

/// What is to be done when the lock is free again.
pub(super) struct Later<Req, Ans> {
    wakers: Vec<Waker>,
    slots: Vec<Slot<Req, Ans>>,
}

impl<Req, Ans> Default for Later<Req, Ans> {
    fn default() -> Self {
        Self { wakers: Vec::new(), slots: Vec::new() }
    }
}

impl<Req, Ans> Later<Req, Ans> {
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.wakers.extend(waker);
    }

    pub(super) fn drop(&mut self, slot: Slot<Req, Ans>) {
        self.slots.push(slot);
    }

    pub(super) fn run(&mut self) {
        self.slots.clear();
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl<Req, Ans> Shared<Req, Ans> {
    pub(super) fn new(places: usize, patience: Duration) -> Arc<Self> {
        let inner = Inner {
            slots: Slab::new(),
            queue: VecDeque::new(),
            seen: 0,
            waiters: Slab::new(),
            waiting: VecDeque::new(),
            free: places,
            places,
            woken: false,
            gate: Gate::Shut,
            draining: None,
            prepared_by: None,
            opened: None,
            serving: false,
            outcome: None,
            counts: ClientCounts::default(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            task: AtomicWaker::new(),
            services: AtomicUsize::new(1),
            state: watch::Sender::new(State::Connecting),
            patience,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<Req, Ans>> {
        // Whole between any two statements that may panic: user code runs without the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task is to be woken by what changes from here on.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// The task looks at what has changed: the next caller wakes it again.
    pub(super) fn look(&self) -> MutexGuard<'_, Inner<Req, Ans>> {
        let mut inner = self.lock();
        inner.woken = false;
        inner
    }

    /// Wakes the task, once until it looks.
    pub(super) fn wake(&self, mut inner: MutexGuard<'_, Inner<Req, Ans>>) {
        let first = !std::mem::replace(&mut inner.woken, true);
        drop(inner);
        if first {
            self.task.wake();
        }
    }

    /// Says what the client is doing, unless it drains.
    pub(super) fn set_state(&self, new: State) {
        self.state.send_if_modified(|state| {
            let drains = matches!(state, State::Draining | State::Ended);
            if !drains {
                *state = new;
            }
            !drains
        });
    }

    pub(super) fn set_ready(&self) {
        self.set_state(State::Ready);
    }

    /// Whether no service is left that could call.
    pub(super) fn is_orphaned(&self) -> bool {
        self.services.load(Ordering::Acquire) == 0
    }
}

impl<Req, Ans> Inner<Req, Ans> {
    /// Queues a call that has its place, and has waited so long for it. Returns its slot.
    pub(super) fn enqueue(&mut self, req: Req, waited: Duration) -> usize {
        let key = self.slots.insert(Slot::Queued { req, waker: None });
        let since = (!waited.is_zero()).then(|| Instant::now().checked_sub(waited)).flatten();
        self.queue.push_back(Queued { key, since });
        self.counts.calls += 1;
        key
    }

    /// The time of the queued calls that are new begins. It is in the order of the queue, so that
    /// the first one is always the first to be late.
    pub(super) fn note_time(&mut self, now: Instant) {
        let Some(first) = self.seen.checked_sub(1) else { return self.note_from(0, None, now) };
        let last = self.queue.get(first).and_then(|queued| queued.since);
        self.note_from(self.seen, last, now);
    }

    fn note_from(&mut self, first: usize, mut last: Option<Instant>, now: Instant) {
        for queued in self.queue.range_mut(first..) {
            last = last.max(Some(queued.since.unwrap_or(now)));
            queued.since = last;
        }
        self.seen = self.queue.len();
    }

    /// Takes the first queued call, to be encoded.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(usize, Req, Instant)> {
        loop {
            let Queued { key, since } = self.queue.pop_front()?;
            self.seen = self.seen.saturating_sub(1);
            let slot = self.slots.get_mut(key)?;
            let waker = if let Slot::Queued { waker, .. } = slot { waker.take() } else { None };
            if let Slot::Queued { req, .. } = std::mem::replace(slot, Slot::Out { waker }) {
                return Some((key, req, since.unwrap_or(now)));
            }
        }
    }

    /// Puts a call back that was taken and could not be encoded for want of room. Returns the
    /// request if its caller has gone.
    pub(super) fn unpop(
        &mut self,
        key: usize,
        req: Req,
        since: Instant,
        later: &mut Later<Req, Ans>,
    ) {
        let slot = &mut self.slots[key];
        if let Slot::Out { waker } = slot {
            let waker = waker.take();
            *slot = Slot::Queued { req, waker };
            self.queue.push_front(Queued { key, since: Some(since) });
            self.seen += 1;
            return;
        }
        self.slots.remove(key);
        later.drop(Slot::Queued { req, waker: None });
        self.free_place(later);
    }

    /// Removes a call whose caller has gone before it was encoded.
    pub(super) fn unqueue(&mut self, key: usize) {
        if let Some(at) = self.queue.iter().position(|queued| queued.key == key) {
            self.queue.remove(at);
            self.seen -= usize::from(at < self.seen);
        }
    }

    /// A place is free: it goes to the caller that has waited longest.
    pub(super) fn free_place(&mut self, later: &mut Later<Req, Ans>) {
        self.free += 1;
        self.grant(later);
    }

    /// Gives free places to those who wait.
    pub(super) fn grant(&mut self, later: &mut Later<Req, Ans>) {
        while matches!(self.gate, Gate::Open) && self.free > 0 {
            let Some(key) = self.waiting.pop_front() else { return };
            self.free -= 1;
            let waiter = &mut self.waiters[key];
            waiter.granted = Some(Grant::Place(waiter.since.elapsed()));
            later.wake(waiter.waker.take());
        }
    }

    /// Has those who have waited since `late` or longer fail when they call; all, if it is `None`.
    pub(super) fn refuse(
        &mut self,
        late: Option<Instant>,
        error: &ClientError,
        later: &mut Later<Req, Ans>,
    ) {
        while let Some(&key) = self.waiting.front() {
            let waiter = &mut self.waiters[key];
            if late.is_some_and(|late| waiter.since > late) {
                return;
            }
            self.waiting.pop_front();
            waiter.granted = Some(Grant::Refused(error.clone()));
            later.wake(waiter.waker.take());
        }
    }

    /// The end of a call.
    pub(super) fn settle(
        &mut self,
        key: usize,
        result: Result<Ans, ClientError>,
        later: &mut Later<Req, Ans>,
    ) {
        let slot = &mut self.slots[key];
        if let Slot::Out { .. } | Slot::Queued { .. } = slot {
            *(if result.is_ok() { &mut self.counts.answered } else { &mut self.counts.failed }) +=
                1;
        }
        match slot {
            Slot::Out { waker } => {
                later.wake(waker.take());
                *slot = Slot::Done(result);
            }
            Slot::Queued { waker, .. } => {
                later.wake(waker.take());
                let queued = std::mem::replace(slot, Slot::Done(result));
                later.drop(queued);
            }
            Slot::Abandoned => {
                self.slots.remove(key);
                later.drop(Slot::Done(result));
            }
            // It was told before.
            Slot::Done(_) => later.drop(Slot::Done(result)),
        }
    }

    /// Fails all queued calls.
    pub(super) fn fail_queued(&mut self, error: &ClientError, later: &mut Later<Req, Ans>) {
        self.seen = 0;
        while let Some(Queued { key, .. }) = self.queue.pop_front() {
            self.settle(key, Err(error.clone()), later);
            self.free_place(later);
        }
    }

    /// Queued calls, and callers that wait, whose time is over. All have the same patience, so it
    /// is the oldest ones. Returns when the next one is late.
    pub(super) fn expire(
        &mut self,
        patience: Duration,
        now: Instant,
        later: &mut Later<Req, Ans>,
    ) -> Option<Instant> {
        self.note_time(now);
        let error = ClientError::TimedOut { sent: false };
        let mut next = None;
        while let Some(&Queued { key, since: Some(since) }) = self.queue.front() {
            let until = after(since, patience);
            if until > now {
                next = Some(until);
                break;
            }
            self.queue.pop_front();
            self.seen = self.seen.saturating_sub(1);
            self.settle(key, Err(error.clone()), later);
            self.free_place(later);
        }
        if let Some(late) = now.checked_sub(patience) {
            self.refuse(Some(late), &error, later);
        }
        let waiter = self.waiting.front().map(|&key| after(self.waiters[key].since, patience));
        earlier(next, waiter)
    }

    /// Fails the calls that are out: the line that knew of them is gone.
    pub(super) fn fail_out(&mut self, later: &mut Later<Req, Ans>) {
        let out: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, slot)| !matches!(slot, Slot::Done(_)))
            .map(|(key, _)| key)
            .collect();
        let gone: Cause = Arc::new(Gone);
        for key in out {
            self.settle(key, Err(ClientError::MayHaveArrived(Arc::clone(&gone))), later);
            self.free_place(later);
        }
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.places - self.free
    }
}

/// The task of a client was dropped.
#[derive(Debug)]
struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client's task is gone: its runtime ended, or its codec panicked")
    }
}

impl StdError for Gone {}

/// The earlier of two moments that may not be.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
