//! Incidents that concern the whole server: failed listeners, and threads that stand still.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ropewalk_middleware::Addr;
use ropewalk_middleware::event::{aside, contain};
use tokio::runtime::RuntimeMetrics;

/// Called with a listener's address and its last error when it fails for good.
pub(in crate::server) type OnFailure = Box<dyn Fn(&Addr, &io::Error) + Send + Sync>;

/// The incidents of one server.
#[derive(Default)]
pub(in crate::server) struct Incidents {
    stalls: AtomicU64,
    /// The runtimes that serve connections.
    runtimes: Mutex<Vec<RuntimeMetrics>>,
    on_failure: OnceLock<OnFailure>,
}

impl Incidents {
    /// Adds a runtime that serves connections.
    pub(in crate::server) fn watch(&self, runtime: RuntimeMetrics) {
        self.runtimes().push(runtime);
    }

    pub(in crate::server) fn runtimes(&self) -> MutexGuard<'_, Vec<RuntimeMetrics>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts threads of a runtime that have stood still.
    pub(in crate::server) fn stalled(&self, threads: usize) {
        self.stalls.fetch_add(threads as u64, Ordering::Relaxed);
    }

    pub(in crate::server) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    pub(in crate::server) fn on_failure(&self, hook: OnFailure) {
        // Set once, before the server serves.
        drop(self.on_failure.set(hook));
    }

    /// Reports a listener that has failed for good, to the hook and the log.
    pub(in crate::server) fn listener_failed(&self, address: &Addr, error: &io::Error) {
        if let Some(hook) = self.on_failure.get()
            && contain(|| hook(address, error)).is_none()
        {
            aside!(ERROR, "the hook for failed listeners panicked");
        }
        let listener = address.clone();
        let error = error.to_string();
        aside!(ERROR, %listener, %error, "a listener has failed, and accepts no connections any more");
    }
}

impl fmt::Debug for Incidents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incidents").field("stalls", &self.stalls).finish_non_exhaustive()
    }
}
