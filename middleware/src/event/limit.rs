//! Limits how many log lines of one class are written.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::Level;

use super::{aside, may_log};

/// The default number of lines of a class that are written in any second: 10, including the line
/// with the count.
pub const LINES: usize = 10;

const SECOND: Duration = Duration::from_secs(1);

type OnSuppressed = Arc<dyn Fn(u64) + Send + Sync>;

/// Passes a limited number of lines a second, counts the others, and reports the count: once a
/// second while lines are suppressed, and for the last time a second after the last suppressed one.
/// Clones share the count.
///
/// A suppressed line costs a lock and one reading of the clock.
#[derive(Clone)]
pub struct Limit(Arc<LimitShared>);

struct LimitShared {
    level: Level,
    max: usize,
    state: Mutex<LimitWindow>,
    report: OnSuppressed,
}

#[derive(Default)]
struct LimitWindow {
    /// When the lines of the last second were written.
    written: VecDeque<Instant>,
    suppressed: u64,
    /// A task will report the count of suppressed lines.
    reporting: bool,
}

impl Limit {
    /// At most [`LINES`] a second of this level. `report` writes the line with the count, on a
    /// thread that may block.
    pub fn new(level: Level, report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self::of(LINES, level, report)
    }

    /// The same with at most `max` lines a second.
    pub fn of(max: usize, level: Level, report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(LimitShared {
            level,
            max,
            state: Mutex::default(),
            report: Arc::new(report),
        }))
    }

    /// Whether a line may be written now. A line of a level that no subscriber enables is not
    /// counted.
    pub fn pass(&self) -> bool {
        if !may_log(self.0.level) {
            return false;
        }
        let mut state = self.0.lock();
        // One line is reserved for the report.
        if state.take(self.0.max.saturating_sub(1)) {
            return true;
        }
        state.suppressed += 1;
        // Without a runtime the count is reported with a later line that has one, or when the limit
        // is dropped.
        if !state.reporting
            && let Ok(runtime) = Handle::try_current()
        {
            state.reporting = true;
            drop(state);
            runtime.spawn(Reporting(Arc::clone(&self.0)).run());
        }
        false
    }
}

impl LimitWindow {
    /// Takes one of the lines allowed in a second.
    fn take(&mut self, max: usize) -> bool {
        let now = Instant::now();
        while self.written.front().is_some_and(|written| now.duration_since(*written) >= SECOND) {
            self.written.pop_front();
        }
        let free = self.written.len() < max;
        if free {
            self.written.push_back(now);
        }
        free
    }
}

impl LimitShared {
    fn lock(&self) -> MutexGuard<'_, LimitWindow> {
        // The state is consistent even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, suppressed: u64) {
        if suppressed > 0 {
            let report = Arc::clone(&self.report);
            aside(move || report(suppressed));
        }
    }
}

impl Drop for LimitShared {
    fn drop(&mut self) {
        self.report(self.lock().suppressed);
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("max", &self.0.max).finish_non_exhaustive()
    }
}

/// Reports once, after a second or when its runtime ends.
struct Reporting(Arc<LimitShared>);

impl Reporting {
    async fn run(self) {
        sleep(SECOND).await;
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        let suppressed = {
            let mut state = self.0.lock();
            state.reporting = false;
            std::mem::take(&mut state.suppressed)
        };
        self.0.report(suppressed);
    }
}
