//! Log lines whose writer may block, and that are waited for only a moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::dispatcher::{get_default, with_default};

use super::{LogSpan, contain};

/// How long the caller waits for a line. So the lines of a log that is read stay in order, and the
/// last line of a process is written before it exits.
const PATIENCE: Duration = Duration::from_millis(100);

/// Lines that are not written yet, and for which no caller waits any more.
static STUCK: AtomicUsize = AtomicUsize::new(0);

/// Emits a line from a thread that may block, and waits for it for at most 100 ms. While a line
/// blocks, later ones are dropped: a log that is not read costs the caller 100 ms once, and the
/// process one thread for each caller.
///
/// It is used for the lines of an accept loop, of the server itself and of the code that ends it.
/// Each line costs a thread, so use it only for lines that are few, or limited by a
/// [`Limit`](super::Limit). The line keeps the caller's subscriber, span and runtime. Returns false
/// if no thread can be started: then the line is lost.
pub fn aside(line: impl FnOnce() + Send + 'static) -> bool {
    if STUCK.load(Ordering::Acquire) > 0 {
        return true;
    }
    let Some(log) = contain(|| get_default(Clone::clone)) else { return true };
    let span = LogSpan::current();
    let runtime = Handle::try_current();
    let written = Arc::new(QueuedLine::default());
    let writing = Writing(Arc::clone(&written));
    let write = move || {
        let _writing = writing;
        let _runtime = runtime.as_ref().map(Handle::enter);
        contain(|| {
            with_default(&log, || {
                let _entered = span.enter();
                line();
            });
        });
    };
    let thread = thread::Builder::new().name("ropewalk-log".to_owned()).spawn(write);
    if thread.is_ok() {
        written.wait();
    }
    thread.is_ok()
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum LineState {
    #[default]
    Waited,
    /// The caller does not wait for it any more.
    Left,
    Written,
}

#[derive(Default)]
struct QueuedLine {
    state: Mutex<LineState>,
    written: Condvar,
}

impl QueuedLine {
    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let waited = self
            .written
            .wait_timeout_while(self.lock(), PATIENCE, |state| *state == LineState::Waited);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *state == LineState::Waited {
            *state = LineState::Left;
            STUCK.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Dropped when the line is written or lost.
struct Writing(Arc<QueuedLine>);

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if *state == LineState::Left {
            STUCK.fetch_sub(1, Ordering::AcqRel);
        }
        *state = LineState::Written;
        self.0.written.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::aside;

    /// One test, because lines that block count for the whole process.
    #[test]
    fn a_line_that_hangs_is_left_behind_and_later_ones_are_dropped_until_it_is_written() {
        let (release, hangs) = mpsc::channel::<()>();
        aside(move || {
            let _ = hangs.recv();
        });
        let (tell, told) = mpsc::channel();
        let dropped = tell.clone();
        aside(move || dropped.send("while one hangs").unwrap());
        assert!(told.try_recv().is_err());
        drop(release);
        let last = loop {
            let tell = tell.clone();
            aside(move || tell.send("afterwards").unwrap());
            if let Ok(line) = told.recv_timeout(Duration::from_millis(1)) {
                break line;
            }
        };
        assert_eq!(last, "afterwards");
    }
}
