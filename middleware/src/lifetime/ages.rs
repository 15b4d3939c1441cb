//! When each connection of a layer has to end, and the task that ends them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::{CloseReason, Closing};

/// The most runtimes that are known as able to watch: enough for one to be left.
const RUNTIMES: usize = 64;

/// When an action is due, and for which connection.
type DueAt = (Instant, u64);

/// The ages of the connections of one layer.
pub(crate) struct Ages {
    pub(crate) max_age: Duration,
    pub(crate) jitter: Duration,
    pub(crate) grace: Duration,
    /// The close reason of connections that it ends.
    reason: CloseReason,
    /// The source of the jitter.
    random: RandomState,
    schedule: Mutex<Schedule>,
    /// Signals that an action is due earlier than the task expects, or that none is left.
    changed: Notify,
}

#[derive(Default)]
struct Schedule {
    due: BTreeMap<DueAt, Action>,
    /// Whether the task is running.
    watched: bool,
    /// The runtimes of the connections, for when the one of the task shuts down.
    runtimes: Vec<Handle>,
}

impl Schedule {
    fn know(&mut self, runtime: &Handle) {
        if self.runtimes.len() < RUNTIMES
            && self.runtimes.iter().all(|known| known.id() != runtime.id())
        {
            self.runtimes.push(runtime.clone());
        }
    }
}

/// An action that is due.
enum Action {
    Drain(Closing),
    Abort(Closing),
}

impl Ages {
    pub(crate) fn new(
        max_age: Duration,
        jitter: Duration,
        grace: Duration,
        reason: CloseReason,
    ) -> Arc<Self> {
        let (random, schedule, changed) = Default::default();
        Arc::new(Self { max_age, jitter, grace, reason, random, schedule, changed })
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        // No user code runs under the lock.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the age of a connection from now on, until the guard is dropped.
    pub(crate) fn enter(this: &Arc<Self>, closing: Closing) -> Age {
        let id = closing.id();
        let age = this.max_age.saturating_add(this.jitter.mul_f64(this.share(id)));
        let Some(at) = Instant::now().checked_add(age) else {
            return Age { ages: Arc::clone(this), due: None };
        };
        let due = (at, id);
        let runtime = Handle::current();
        let mut schedule = this.lock();
        schedule.know(&runtime);
        let is_first = schedule.due.first_key_value().is_none_or(|(first, _)| due < *first);
        schedule.due.insert(due, Action::Drain(closing));
        let was_watched = std::mem::replace(&mut schedule.watched, true);
        drop(schedule);
        if !was_watched {
            Watcher::spawn(Arc::clone(this), &runtime);
        } else if is_first {
            this.changed.notify_one();
        }
        Age { ages: Arc::clone(this), due: Some(due) }
    }

    /// A random number from 0 to below 1.
    fn share(&self, id: u64) -> f64 {
        let bits = u32::try_from(self.random.hash_one(id) >> 32).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// An action that is due now, or the time of the next one; without any the task has to end.
    fn next(&self, now: Instant) -> Upcoming {
        let mut schedule = self.lock();
        let Some(entry) = schedule.due.first_entry() else {
            schedule.watched = false;
            schedule.runtimes.clear();
            return Upcoming::Nothing;
        };
        let (at, id) = *entry.key();
        if at > now {
            return Upcoming::Later(at);
        }
        let action = entry.remove();
        if let Action::Drain(closing) = &action
            && let Some(later) = at.checked_add(self.grace)
        {
            schedule.due.insert((later, id), Action::Abort(closing.clone()));
        }
        Upcoming::Now(action)
    }

    fn forget(&self, (at, id): DueAt) {
        let mut schedule = self.lock();
        let later = at.checked_add(self.grace);
        let action = schedule.due.remove(&(at, id)).or_else(|| schedule.due.remove(&(later?, id)));
        let is_last = schedule.due.is_empty();
        // The action's handle is dropped after the lock is released.
        drop(schedule);
        drop(action);
        if is_last {
            self.changed.notify_one();
        }
    }
}

enum Upcoming {
    Now(Action),
    Later(Instant),
    Nothing,
}

/// The task's reference to the ages. A runtime that shuts down drops its tasks; then the runtime of
/// another connection goes on with it, or else the next connection starts another one.
struct Watcher {
    ages: Arc<Ages>,
    runtime: Id,
    /// The task has ended by itself, and another one may be running already.
    is_done: bool,
}

impl Watcher {
    fn spawn(ages: Arc<Ages>, runtime: &Handle) {
        // A runtime that has shut down drops the watcher at once.
        runtime.spawn(watch(Self { ages, runtime: runtime.id(), is_done: false }));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut schedule = self.ages.lock();
        schedule.runtimes.retain(|known| known.id() != self.runtime);
        let next = schedule.runtimes.last().cloned();
        schedule.watched = next.is_some();
        drop(schedule);
        if let Some(runtime) = next {
            Self::spawn(Arc::clone(&self.ages), &runtime);
        }
    }
}

async fn watch(mut watcher: Watcher) {
    let ages = Arc::clone(&watcher.ages);
    loop {
        match ages.next(Instant::now()) {
            Upcoming::Now(Action::Drain(closing)) => {
                closing.set_reason(ages.reason);
                closing.drain();
            }
            Upcoming::Now(Action::Abort(closing)) => closing.abort_for(ages.reason),
            // Waits until then, or until the ages have changed.
            Upcoming::Later(at) => drop(timeout_at(at, ages.changed.notified()).await),
            Upcoming::Nothing => {
                watcher.is_done = true;
                return;
            }
        }
        // Many connections may be due at the same moment.
        tokio::task::coop::consume_budget().await;
    }
}

/// A connection whose age is watched, until this is dropped.
pub(crate) struct Age {
    ages: Arc<Ages>,
    /// `None` if its maximum age is beyond the clock's range: then it may live forever.
    due: Option<DueAt>,
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

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::runtime::Builder;
    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;
    use crate::{Addr, Connection, Peer, Stream};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_runtime_is_known_once_and_64_of_them() {
        let runtime = || Builder::new_current_thread().build().unwrap();
        let runtimes: Vec<_> = (0..=RUNTIMES).map(|_| runtime()).collect();
        let mut schedule = Schedule::default();
        for _ in 0..2 {
            schedule.know(runtimes[0].handle());
        }
        assert_eq!(schedule.runtimes.len(), 1);
        for runtime in &runtimes {
            schedule.know(runtime.handle());
        }
        assert_eq!(schedule.runtimes.len(), RUNTIMES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_due_before_the_first_one_is_not_late() {
        let ages = Ages::new(SECOND, 1000 * SECOND, SECOND, CloseReason::MaxAge);
        let enter = || {
            let (ours, _) = duplex(1);
            let connection = Connection::new(Stream::from_io(ours), Peer::new(Addr::Memory));
            let closing = connection.closing();
            (closing.clone(), Ages::enter(&ages, closing))
        };
        let (_, first) = enter();
        yield_now().await;
        // The jitter is random: one of the next is due earlier.
        let (closing, age) = loop {
            let (closing, age) = enter();
            if age.due < first.due {
                break (closing, age);
            }
            yield_now().await;
        };
        yield_now().await;
        let (at, _) = age.due.unwrap();
        // The timer has a resolution of a millisecond.
        advance(at - Instant::now() + Duration::from_millis(1)).await;
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(closing.is_draining());
    }
}
