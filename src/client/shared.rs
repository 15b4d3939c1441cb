//! The state that callers and the connection's task share, under one lock: the free slots, the
//! queue, the calls.
//!
//! Wakers are woken and the user's values dropped after the lock is released, because both run user
//! code.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use slab::Slab;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ClientError;
use super::state::{ClientCounts, ClientState};

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
    pub(super) seen: usize,
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

/// The earlier of two instants, each of which may be missing.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
