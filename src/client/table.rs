//! The calls of a client: what happens to each, under the lock.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Cause, ClientError};
use super::shared::{Admission, CallState, CallTable, Grant, Later, Queued, earlier};
use crate::wire::after;

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
