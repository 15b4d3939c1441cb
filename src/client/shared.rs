//! The state that callers and the connection's task share, under one lock: the free slots, the
//! queue, the calls.
//!
//! Wakers are woken and the user's values dropped after the lock is released, because both run user
//! code.

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
use super::state::{ClientCounts, ClientState};
use crate::wire::after;

/// The state of a call.
pub(super) enum CallState<Req, Ans> {
    Queued {
        req: Req,
        waker: Option<Waker>,
    },
    /// Encoded, or about to be.
    Out {
        waker: Option<Waker>,
    },
    Done(Result<Ans, ClientError>),
    /// Encoded, and its caller is gone.
    Abandoned,
}

/// A caller that waits in `poll_ready`.
pub(super) struct Waiter {
    pub(super) waker: Option<Waker>,
    pub(super) since: Instant,
    pub(super) granted: Option<Grant>,
}

/// The result of a caller's wait.
pub(super) enum Grant {
    /// A slot, with the time that the caller has waited.
    Slot(Duration),
    /// No slot: the caller becomes ready, and its call fails with this error.
    Refused(ClientError),
}

/// Whether callers get slots.
pub(super) enum Admission {
    /// There is a connection: callers get slots.
    Open,
    /// There is no connection: callers wait.
    Shut,
    /// Calls fail.
    Refusing(ClientError),
}

/// A queued call, and when its time began: `None` until the task has seen it, so that callers don't
/// read the clock.
pub(super) struct Queued {
    pub(super) key: usize,
    pub(super) since: Option<Instant>,
}

/// Reported by the leaf to the task when a connection has ended as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// The client drains, and is done.
    Drained,
    /// The connection had reached its maximum age: the next one is made at once.
    Aged,
}

pub(super) struct ClientShared<Req, Ans> {
    inner: Mutex<CallTable<Req, Ans>>,
    task: AtomicWaker,
    /// How many clones of the service exist.
    pub(super) services: AtomicUsize,
    pub(super) state: watch::Sender<ClientState>,
    /// How long a call may take, including its wait for a slot.
    pub(super) patience: Duration,
}

pub(super) struct CallTable<Req, Ans> {
    pub(super) calls: Slab<CallState<Req, Ans>>,
    pub(super) queue: VecDeque<Queued>,
    /// How many calls at the front of the queue the task has seen.
    seen: usize,
    pub(super) waiters: Slab<Waiter>,
    /// The keys of the waiters that still wait, in their order.
    pub(super) waiting: VecDeque<usize>,
    pub(super) free: usize,
    pub(super) slots: usize,
    /// The task was woken, and has not checked the state yet.
    woken: bool,
    pub(super) gate: Admission,
    /// The deadline of the drain, if the client drains.
    pub(super) draining: Option<Instant>,
    /// The deadline of the current attempt to connect and prepare.
    pub(super) prepared_by: Option<Instant>,
    /// When the current connection was ready.
    pub(super) opened: Option<Instant>,
    /// A connection's loop keeps the deadlines of callers, not the task.
    pub(super) serving: bool,
    pub(super) outcome: Option<Completion>,
    pub(super) counts: ClientCounts,
}

/// Wakers to wake and values to drop after the lock is released.
pub(super) struct Later<Req, Ans> {
    wakers: Vec<Waker>,
    calls: Vec<CallState<Req, Ans>>,
}

impl<Req, Ans> Default for Later<Req, Ans> {
    fn default() -> Self {
        Self { wakers: Vec::new(), calls: Vec::new() }
    }
}

impl<Req, Ans> Later<Req, Ans> {
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.wakers.extend(waker);
    }

    pub(super) fn drop(&mut self, call: CallState<Req, Ans>) {
        self.calls.push(call);
    }

    pub(super) fn run(&mut self) {
        self.calls.clear();
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl<Req, Ans> ClientShared<Req, Ans> {
    pub(super) fn new(slots: usize, patience: Duration) -> Arc<Self> {
        let inner = CallTable {
            calls: Slab::new(),
            queue: VecDeque::new(),
            seen: 0,
            waiters: Slab::new(),
            waiting: VecDeque::new(),
            free: slots,
            slots,
            woken: false,
            gate: Admission::Shut,
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
            state: watch::Sender::new(ClientState::Connecting),
            patience,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, CallTable<Req, Ans>> {
        // No user code runs under this lock, so its data is consistent even after a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the task to be woken by later changes.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// Locks the state for the task. The next change wakes it again.
    pub(super) fn look(&self) -> MutexGuard<'_, CallTable<Req, Ans>> {
        let mut inner = self.lock();
        inner.woken = false;
        inner
    }

    /// Wakes the task, unless it was woken already and has not checked the state since.
    pub(super) fn wake(&self, mut inner: MutexGuard<'_, CallTable<Req, Ans>>) {
        let first = !std::mem::replace(&mut inner.woken, true);
        drop(inner);
        if first {
            self.task.wake();
        }
    }

    /// Publishes the state of the client, unless it drains or has ended.
    pub(super) fn set_state(&self, new: ClientState) {
        self.state.send_if_modified(|state| {
            let drains = matches!(state, ClientState::Draining | ClientState::Ended);
            if !drains {
                *state = new;
            }
            !drains
        });
    }

    pub(super) fn set_ready(&self) {
        self.set_state(ClientState::Ready);
    }

    /// Whether all clones of the service are dropped.
    pub(super) fn is_orphaned(&self) -> bool {
        self.services.load(Ordering::Acquire) == 0
    }
}

impl<Req, Ans> CallTable<Req, Ans> {
    /// Queues a call whose caller holds a slot, for which it has waited this long. Returns the
    /// call's key.
    pub(super) fn enqueue(&mut self, req: Req, waited: Duration) -> usize {
        let key = self.calls.insert(CallState::Queued { req, waker: None });
        let since = (!waited.is_zero()).then(|| Instant::now().checked_sub(waited)).flatten();
        self.queue.push_back(Queued { key, since });
        self.counts.calls += 1;
        key
    }

    /// Sets when the time of new calls in the queue began. These times are in the order of the
    /// queue, so the first call is always the first to time out.
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

    /// Takes the first queued call, to encode it.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(usize, Req, Instant)> {
        loop {
            let Queued { key, since } = self.queue.pop_front()?;
            self.seen = self.seen.saturating_sub(1);
            let call = self.calls.get_mut(key)?;
            let waker =
                if let CallState::Queued { waker, .. } = call { waker.take() } else { None };
            if let CallState::Queued { req, .. } = std::mem::replace(call, CallState::Out { waker })
            {
                return Some((key, req, since.unwrap_or(now)));
            }
        }
    }

    /// Puts back a call for which there was no room. If its caller is gone, the call is dropped
    /// instead.
    pub(super) fn unpop(
        &mut self,
        key: usize,
        req: Req,
        since: Instant,
        later: &mut Later<Req, Ans>,
    ) {
        let call = &mut self.calls[key];
        if let CallState::Out { waker } = call {
            let waker = waker.take();
            *call = CallState::Queued { req, waker };
            self.queue.push_front(Queued { key, since: Some(since) });
            self.seen += 1;
            return;
        }
        self.calls.remove(key);
        later.drop(CallState::Queued { req, waker: None });
        self.free_slot(later);
    }

    /// Removes a queued call whose caller is gone.
    pub(super) fn unqueue(&mut self, key: usize) {
        if let Some(at) = self.queue.iter().position(|queued| queued.key == key) {
            self.queue.remove(at);
            self.seen -= usize::from(at < self.seen);
        }
    }

    /// Frees a slot, and gives it to the caller that has waited longest.
    pub(super) fn free_slot(&mut self, later: &mut Later<Req, Ans>) {
        self.free += 1;
        self.grant(later);
    }

    /// Gives free slots to waiting callers.
    pub(super) fn grant(&mut self, later: &mut Later<Req, Ans>) {
        while matches!(self.gate, Admission::Open) && self.free > 0 {
            let Some(key) = self.waiting.pop_front() else { return };
            self.free -= 1;
            let waiter = &mut self.waiters[key];
            waiter.granted = Some(Grant::Slot(waiter.since.elapsed()));
            later.wake(waiter.waker.take());
        }
    }

    /// Makes callers that have waited since `late` or longer ready with an error; all of them if it
    /// is `None`.
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

    /// Ends a call with its result.
    pub(super) fn settle(
        &mut self,
        key: usize,
        result: Result<Ans, ClientError>,
        later: &mut Later<Req, Ans>,
    ) {
        let call = &mut self.calls[key];
        if let CallState::Out { .. } | CallState::Queued { .. } = call {
            *(if result.is_ok() { &mut self.counts.answered } else { &mut self.counts.failed }) +=
                1;
        }
        match call {
            CallState::Out { waker } => {
                later.wake(waker.take());
                *call = CallState::Done(result);
            }
            CallState::Queued { waker, .. } => {
                later.wake(waker.take());
                let queued = std::mem::replace(call, CallState::Done(result));
                later.drop(queued);
            }
            CallState::Abandoned => {
                self.calls.remove(key);
                later.drop(CallState::Done(result));
            }
            // The call has its result already.
            CallState::Done(_) => later.drop(CallState::Done(result)),
        }
    }

    /// Fails all queued calls.
    pub(super) fn fail_queued(&mut self, error: &ClientError, later: &mut Later<Req, Ans>) {
        self.seen = 0;
        while let Some(Queued { key, .. }) = self.queue.pop_front() {
            self.settle(key, Err(error.clone()), later);
            self.free_slot(later);
        }
    }

    /// Fails queued calls and waiting callers whose time is over. All have the same time, so the
    /// oldest come first. Returns when the next one times out.
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
            self.free_slot(later);
        }
        if let Some(late) = now.checked_sub(patience) {
            self.refuse(Some(late), &error, later);
        }
        let waiter = self.waiting.front().map(|&key| after(self.waiters[key].since, patience));
        earlier(next, waiter)
    }

    /// Fails the sent calls, because their connection's loop is gone.
    pub(super) fn fail_out(&mut self, later: &mut Later<Req, Ans>) {
        let out: Vec<usize> = self
            .calls
            .iter()
            .filter(|(_, call)| !matches!(call, CallState::Done(_)))
            .map(|(key, _)| key)
            .collect();
        let gone: Cause = Arc::new(TaskGone);
        for key in out {
            self.settle(key, Err(ClientError::MayHaveArrived(Arc::clone(&gone))), later);
            self.free_slot(later);
        }
    }

    /// How many slots are taken.
    pub(super) fn taken(&self) -> usize {
        self.slots - self.free
    }
}

/// The error of calls when the client's task was dropped.
#[derive(Debug)]
struct TaskGone;

impl fmt::Display for TaskGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client's task is gone: its runtime ended, or its codec panicked")
    }
}

impl StdError for TaskGone {}

/// The earlier of two instants, each of which may be missing.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
