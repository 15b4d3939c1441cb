//! The timer of a connection, for the deadlines of the wire.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes the connection for the earliest of its deadlines. The timer is made at the first wait.
///
/// It is moved when it fires and when an earlier deadline comes up. Moving a deadline to a later
/// time, as each read does, costs nothing: the timer fires too early once, and is then set to the
/// new time.
#[derive(Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready once `until` has passed. Several deadlines may be polled in one turn.
    pub(crate) fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        loop {
            let fired = sleep.as_mut().poll(cx).is_ready();
            if !fired && coop::has_budget_remaining() {
                return Poll::Pending;
            }
            // All timers are pending for a task that has used up its budget. A peer that always
            // sends more could cause that for ever, so the clock is read.
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            if !fired {
                return Poll::Pending;
            }
            sleep.as_mut().reset(until);
        }
    }

    /// Whether it is set and fires by then.
    pub(super) fn is_set_by(&self, until: Instant) -> bool {
        self.0.as_ref().is_some_and(|sleep| sleep.deadline() <= until && !sleep.is_elapsed())
    }

    /// No deadline applies for now. The next frame may have one, so the timer is kept until it has
    /// fired.
    pub(crate) fn idle(&mut self) {
        if self.0.as_ref().is_some_and(|sleep| sleep.is_elapsed()) {
            self.0 = None;
        }
    }

    /// No deadlines are left.
    pub(super) fn stop(&mut self) {
        self.0 = None;
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timer").field(&self.0.as_ref().map(|sleep| sleep.deadline())).finish()
    }
}

/// `patience` after `start`; a time beyond the clock's range becomes one in a year.
pub(crate) fn after(start: Instant, patience: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    start.checked_add(patience).unwrap_or_else(|| start + YEAR)
}
