//! How late a runtime polls its tasks.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, sleep_until};

/// The time between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// So many looks in a row have to be below the lower mark.
pub(super) const CALM: u32 = 10;

/// The marks of a lag.
#[derive(Clone, Copy, Debug)]
pub(super) struct LagMarks {
    pub(super) from: Duration,
    pub(super) below: Duration,
}

/// The lag of each runtime that serves connections of one layer.
pub(super) struct Lags {
    pub(super) marks: LagMarks,
    /// How often a runtime became overloaded.
    begun: AtomicU64,
    /// The entry of a runtime that is gone is dead.
    watched: Mutex<HashMap<Id, Weak<WatchedRuntime>>>,
}

/// The state of a runtime. The task that watches it holds it, and so does each connection.
#[derive(Debug, Default)]
pub(super) struct WatchedRuntime {
    overloaded: AtomicBool,
    /// The lag at the last look, in nanoseconds.
    lag: AtomicU64,
}

impl WatchedRuntime {
    pub(super) fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    fn lag(&self) -> Duration {
        Duration::from_nanos(self.lag.load(Ordering::Relaxed))
    }
}

impl Lags {
    pub(super) fn new(marks: LagMarks) -> Arc<Self> {
        Arc::new(Self { marks, begun: AtomicU64::new(0), watched: Mutex::default() })
    }

    /// Watches the runtime of this thread, if it is not watched yet.
    pub(super) fn watch(this: &Arc<Self>) -> Arc<WatchedRuntime> {
        let runtime = Handle::current();
        let mut watched = this.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = watched.get(&runtime.id()).and_then(Weak::upgrade) {
            return known;
        }
        // The entries of runtimes that are gone.
        watched.retain(|_, known| known.strong_count() > 0);
        let new = Arc::<WatchedRuntime>::default();
        watched.insert(runtime.id(), Arc::downgrade(&new));
        runtime.spawn(look(Arc::downgrade(this), Arc::clone(&new)));
        new
    }

    /// Whether the watch of a runtime ends, because it has no connection any more. Then the next
    /// connection begins another one.
    fn ends(&self, runtime: &Arc<WatchedRuntime>) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // The other references are those of connections, which are made under this lock.
        let ends = Arc::strong_count(runtime) == 1 && !runtime.is_overloaded();
        if ends {
            watched.retain(|_, known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(runtime)));
        }
        ends
    }

    fn all(&self) -> Vec<Arc<WatchedRuntime>> {
        self.watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// The largest lag at the last looks.
    pub(super) fn lag(&self) -> Duration {
        self.all().iter().map(|watched| watched.lag()).max().unwrap_or_default()
    }

    pub(super) fn is_overloaded(&self) -> bool {
        self.all().iter().any(|watched| watched.is_overloaded())
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Looks at the lag of this runtime while it has connections, and while it is overloaded: also if all
/// its connections are refused. The task holds what it watches, because short connections that
/// follow one another would begin a task each otherwise.
async fn look(lags: Weak<Lags>, watched: Arc<WatchedRuntime>) {
    let mut calm = 0;
    loop {
        let due = Instant::now() + LOOK;
        sleep_until(due).await;
        let Some(lags) = lags.upgrade() else { return };
        let lag = due.elapsed();
        watched.lag.store(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        calm = if lag < lags.marks.below { calm + 1 } else { 0 };
        if lag >= lags.marks.from && !watched.overloaded.swap(true, Ordering::Relaxed) {
            lags.begun.fetch_add(1, Ordering::Relaxed);
        } else if calm >= CALM {
            watched.overloaded.store(false, Ordering::Relaxed);
        }
        if lags.ends(&watched) {
            return;
        }
    }
}

impl fmt::Debug for Lags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lags")
            .field("marks", &self.marks)
            .field("lag", &self.lag())
            .finish_non_exhaustive()
    }
}
