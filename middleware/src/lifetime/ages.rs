//! When each connection of a layer has to end, and the task that ends them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::{CloseReason, Closing};

/// When something is due, and for which connection.
type Due = (Instant, u64);

/// The ages of the connections of one layer.
pub(crate) struct Ages {
    pub(crate) max_age: Duration,
    pub(crate) jitter: Duration,
    pub(crate) grace: Duration,
    /// The reason of a connection that ends so.
    reason: CloseReason,
    /// Where the jitter comes from.
    random: RandomState,
    queue: Mutex<Queue>,
    /// Something is due earlier than the task knows, or nothing is any more.
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    due: BTreeMap<Due, Step>,
    /// Whether the task is there.
    watched: bool,
}

/// What is due.
enum Step {
    Drain(Closing),
    Abort(Closing),
}

impl Ages {
    pub(crate) fn new(max_age: Duration, jitter: Duration, grace: Duration, reason: CloseReason) -> Arc<Self> {
        let (random, queue, changed) = Default::default();
        Arc::new(Self { max_age, jitter, grace, reason, random, queue, changed })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code of others runs under it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the age of a connection from now on, until the guard is dropped.
    pub(crate) fn enter(this: &Arc<Self>, closing: Closing) -> Age {
        let id = closing.id();
        let age = this.max_age.saturating_add(this.jitter.mul_f64(this.share(id)));
        let Some(at) = Instant::now().checked_add(age) else { return Age { ages: Arc::clone(this), due: None } };
        let due = (at, id);
        let mut queue = this.lock();
        let is_first = queue.due.first_key_value().is_none_or(|(first, _)| due < *first);
        queue.due.insert(due, Step::Drain(closing));
        let was_watched = std::mem::replace(&mut queue.watched, true);
        drop(queue);
        if !was_watched {
            tokio::spawn(watch(Watcher { ages: Arc::clone(this), is_done: false }));
        } else if is_first {
            this.changed.notify_one();
        }
        Age { ages: Arc::clone(this), due: Some(due) }
    }

    /// A number from 0 to below 1, at random.
    fn share(&self, id: u64) -> f64 {
        let bits = u32::try_from(self.random.hash_one(id) >> 32).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// What is due now. Otherwise when the next is due; with nothing left, the task is to end.
    fn next(&self, now: Instant) -> Next {
        let mut queue = self.lock();
        let Some(entry) = queue.due.first_entry() else {
            queue.watched = false;
            return Next::Nothing;
        };
        let (at, id) = *entry.key();
        if at > now {
            return Next::Later(at);
        }
        let step = entry.remove();
        if let Step::Drain(closing) = &step
            && let Some(later) = at.checked_add(self.grace)
        {
            queue.due.insert((later, id), Step::Abort(closing.clone()));
        }
        Next::Now(step)
    }

    fn forget(&self, (at, id): Due) {
        let mut queue = self.lock();
        let later = at.checked_add(self.grace);
        let step = queue.due.remove(&(at, id)).or_else(|| queue.due.remove(&(later?, id)));
        let is_last = queue.due.is_empty();
        // What the step holds is dropped behind the lock.
        drop(queue);
        drop(step);
        if is_last {
            self.changed.notify_one();
        }
    }
}

enum Next {
    Now(Step),
    Later(Instant),
    Nothing,
}

/// The task's hold on the ages. A runtime that shuts down drops its tasks; then the next connection begins another one.
struct Watcher {
    ages: Arc<Ages>,
    /// The task has ended by itself, and another one may be there already.
    is_done: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if !self.is_done {
            self.ages.lock().watched = false;
        }
    }
}

async fn watch(mut watcher: Watcher) {
    let ages = Arc::clone(&watcher.ages);
    loop {
        match ages.next(Instant::now()) {
            Next::Now(Step::Drain(closing)) => {
                closing.set_reason(ages.reason);
                closing.drain();
            }
            Next::Now(Step::Abort(closing)) => closing.abort_for(ages.reason),
            // Until then, or until the ages have changed.
            Next::Later(at) => drop(timeout_at(at, ages.changed.notified()).await),
            Next::Nothing => {
                watcher.is_done = true;
                return;
            }
        }
        // Many connections may be due at the same moment.
        tokio::task::coop::consume_budget().await;
    }
}

/// A connection whose age is counted, until this is dropped.
pub(crate) struct Age {
    ages: Arc<Ages>,
    /// Without one it may live forever: its age lies beyond the clock.
    due: Option<Due>,
}

impl Drop for Age {
    fn drop(&mut self) {
        if let Some(due) = self.due {
            self.ages.forget(due);
        }
    }
}

impl fmt::Debug for Ages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ages")
            .field("max_age", &self.max_age)
            .field("jitter", &self.jitter)
            .field("grace", &self.grace)
            .field("connections", &self.lock().due.len())
            .finish()
    }
}

impl fmt::Debug for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Age").field("due", &self.due).finish_non_exhaustive()
    }
}
