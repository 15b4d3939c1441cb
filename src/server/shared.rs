//! What the accept loop, the connections and the handle of one server share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use ropewalk_middleware::{Addr, CloseReason, Closing, Connection};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::handle::Counts;
use super::registry::{Place, Registry};
use super::reload::Reloads;
use crate::listener::preamble::Preambles;

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepting, or about to.
    Running,
    /// No more accepting; what is left has until then.
    Draining(Instant),
    /// What is left is aborted now.
    Stopping,
    /// Over.
    Ended,
}

/// One server's state.
#[derive(Debug)]
pub(super) struct Shared {
    counts: Mutex<Counts>,
    registry: Registry,
    max: AtomicUsize,
    /// Wakes the accept loop when there is room again.
    room: AtomicWaker,
    /// Told when the last connection has gone.
    idle: Notify,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) addresses: OnceLock<Vec<Addr>>,
    pub(super) preambles: Preambles,
    pub(super) reloads: Reloads,
}

impl Shared {
    pub(super) fn new(max: usize, reloads: Reloads) -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::default(),
            registry: Registry::default(),
            max: AtomicUsize::new(max),
            room: AtomicWaker::new(),
            idle: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            addresses: OnceLock::new(),
            preambles: Preambles::default(),
            reloads,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Only counters change under it; they are whole whatever panicked.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.room.wake();
    }

    fn is_full(&self) -> bool {
        self.lock().active() >= self.max() as u64
    }

    /// Ready when one more connection may be accepted. Only the accept loop asks.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_full() {
            return Poll::Ready(());
        }
        self.room.register(cx.waker());
        if self.is_full() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// A connection was accepted.
    pub(super) fn enter(self: &Arc<Self>, connection: &Connection) -> Entered {
        self.lock().accept();
        let closing = connection.closing();
        Entered { place: self.registry.add(closing.clone()), closing, server: Arc::clone(self) }
    }

    /// Asks every connection, and every one that may still come, to finish.
    pub(super) fn drain_all(&self) {
        self.registry.drain_all();
    }

    pub(super) fn abort_all(&self) {
        self.registry.abort_all();
    }

    pub(super) fn begin_drain(&self, within: Duration) {
        let now = Instant::now();
        // Beyond the clock's range is as good as for ever; a second signal ends it all the same.
        let deadline = now.checked_add(within).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600));
        self.phase.send_if_modified(|phase| match phase {
            Phase::Running | Phase::Draining(_) => {
                *phase = Phase::Draining(deadline);
                true
            }
            Phase::Stopping | Phase::Ended => false,
        });
    }

    pub(super) fn stop(&self) {
        self.phase.send_if_modified(|phase| {
            let running = matches!(phase, Phase::Running | Phase::Draining(_));
            if running {
                *phase = Phase::Stopping;
            }
            running
        });
    }

    /// Waits until no connection is left.
    pub(super) async fn wait_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().active() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn leave(&self, place: Place, reason: CloseReason) {
        self.registry.remove(place);
        let left = {
            let mut counts = self.lock();
            counts.close(reason);
            counts.active()
        };
        self.room.wake();
        if left == 0 {
            // Kept for whoever asks next, so the last one is never missed.
            self.idle.notify_one();
        }
    }
}

/// An open connection's entry in the books; dropping it closes the entry with the connection's reason.
#[derive(Debug)]
pub(super) struct Entered {
    place: Place,
    pub(super) closing: Closing,
    server: Arc<Shared>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // A task dropped with its runtime has no reason yet: it was cut off.
        let reason = self.closing.set_reason(CloseReason::Aborted);
        self.server.leave(self.place, reason);
    }
}
