//! The timer that the calls of a connection share.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::runtime::{Handle, Id};
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

thread_local! {
    /// The timer of the connection whose calls this thread is polling; `None` if no connection
    /// lends one.
    static LENT: Cell<Option<CallTimer>> = const { Cell::new(None) };
    /// A call on this thread needed a timer while no connection lent one.
    static NEEDED: Cell<bool> = const { Cell::new(false) };
}

/// The timer of a connection's calls: made by a call that waits, and reused by the next.
///
/// It is lent from the second poll on in which a call needs one: most connections have no deadlines
/// of calls, and then a loan costs as good as nothing.
///
/// Code that polls the calls of a connection, such as `framed` and `Session::drive`, keeps one and
/// lends it during each poll. So a call under a [`CallDeadlineLayer`](crate::CallDeadlineLayer)
/// needs no reference to its connection, which would cost each frame a reference count.
///
/// ```
/// use std::task::{Context, Poll};
/// use ropewalk_middleware::CallTimer;
///
/// /// Polls a call, and lends it the timer.
/// fn poll<F: Future + Unpin>(timer: &mut CallTimer, call: &mut F, cx: &mut Context<'_>) -> Poll<F::Output> {
///     let lent = std::mem::take(timer).lend();
///     let polled = std::pin::Pin::new(call).poll(cx);
///     *timer = lent.end();
///     polled
/// }
/// ```
#[derive(Default)]
pub struct CallTimer {
    spare: Option<Pin<Box<DeadlineTimer>>>,
    /// A call has needed one.
    is_needed: bool,
}

impl CallTimer {
    /// Lends the timer to all calls that this thread polls until the loan ends.
    #[inline]
    pub fn lend(self) -> LentTimer {
        if !self.is_needed {
            return LentTimer { outer: None, lends: false };
        }
        LentTimer { outer: swap(Some(self)), lends: true }
    }
}

impl fmt::Debug for CallTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallTimer").field("is_set", &self.spare.is_some()).finish()
    }
}

/// A [`CallTimer`] that is lent, until this is dropped or ended.
#[derive(Debug)]
#[must_use = "dropping it ends the loan and drops the timer"]
pub struct LentTimer {
    /// The timer lent before: a call of one connection may poll another connection.
    outer: Option<CallTimer>,
    /// There is a timer to be lent, or a place for one.
    lends: bool,
}

impl LentTimer {
    /// Ends the loan and returns the timer, for the next one.
    #[inline]
    pub fn end(mut self) -> CallTimer {
        let timer = if self.lends {
            swap(self.outer.take()).unwrap_or_default()
        } else {
            CallTimer { spare: None, is_needed: NEEDED.replace(false) }
        };
        // Nothing is left to do, and this is done at each poll of a connection.
        std::mem::forget(self);
        timer
    }
}

impl Drop for LentTimer {
    fn drop(&mut self) {
        if self.lends {
            drop(swap(self.outer.take()));
        }
    }
}

/// Replaces the lent timer and returns the previous one. On a thread that is being torn down it
/// does nothing.
fn swap(timer: Option<CallTimer>) -> Option<CallTimer> {
    LENT.try_with(|lent| lent.replace(timer)).ok().flatten()
}

/// A timer for a call that begins to wait now: the lent one, or a new one.
pub(super) fn take(patience: Duration) -> Pin<Box<DeadlineTimer>> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let now = Instant::now();
    let until = now.checked_add(patience).unwrap_or_else(|| now + YEAR);
    let runtime = this_runtime();
    let lent = swap(None);
    let spare = match lent {
        Some(timer) => {
            swap(Some(CallTimer { spare: None, ..timer }));
            timer.spare
        }
        None => {
            NEEDED.set(true);
            None
        }
    };
    // A timer of another runtime may never fire, and a call may run its own runtime.
    let Some(mut timer) = spare.filter(|timer| timer.runtime == runtime) else {
        return Box::pin(DeadlineTimer { until, runtime, sleep: sleep_until(until) });
    };
    let mut this = timer.as_mut().project();
    *this.until = until;
    // An earlier call has set it, so it usually fires too early, which does no harm; only a longer
    // deadline has to be replaced.
    if this.sleep.deadline() > until {
        this.sleep.as_mut().reset(until);
    }
    timer
}

/// Returns a timer, still set, for the next call that waits, if the connection lends timers and
/// none has been returned yet.
pub(super) fn put_back(timer: Pin<Box<DeadlineTimer>>) {
    match swap(None) {
        Some(CallTimer { spare: None, is_needed }) => {
            drop(swap(Some(CallTimer { spare: Some(timer), is_needed })));
        }
        other => drop(swap(other)),
    }
}

/// The runtime in which this thread makes timers.
fn this_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

/// Ready once `until` has passed, even if it was set to fire earlier.
#[pin_project]
#[derive(Debug)]
pub(super) struct DeadlineTimer {
    until: Instant,
    runtime: Option<Id>,
    #[pin]
    sleep: Sleep,
}

impl Future for DeadlineTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let fired = this.sleep.as_mut().poll(cx).is_ready();
            if !fired && coop::has_budget_remaining() {
                return Poll::Pending;
            }
            // When the task's budget is used up every timer returns `Pending`, so the clock is
            // read.
            if Instant::now() >= *this.until {
                return Poll::Ready(());
            }
            if !fired {
                return Poll::Pending;
            }
            this.sleep.as_mut().reset(*this.until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::time::Instant;

    use super::{CallTimer, DeadlineTimer, put_back, take};

    const SECOND: Duration = Duration::from_secs(1);

    /// A runtime whose clock stands still.
    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    /// A timer that was polled, so that it is set.
    fn set(patience: Duration) -> Pin<Box<DeadlineTimer>> {
        let mut timer = take(patience);
        let polled = timer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        timer
    }

    /// One that has been needed before.
    fn needed(spare: Option<Pin<Box<DeadlineTimer>>>) -> CallTimer {
        CallTimer { spare, is_needed: true }
    }

    fn address(timer: &CallTimer) -> Option<*const DeadlineTimer> {
        timer.spare.as_ref().map(|timer| std::ptr::from_ref(timer.as_ref().get_ref()))
    }

    #[test]
    fn a_loan_that_is_dropped_gives_way_to_the_one_around_it() {
        runtime().block_on(async {
            let timer = needed(Some(set(SECOND)));
            let lent = address(&timer);
            let outer = timer.lend();
            drop(needed(None).lend());
            assert_eq!(address(&outer.end()), lent);
            // After the end nothing is lent.
            put_back(take(SECOND));
            assert_eq!(address(&CallTimer::default().lend().end()), None);
        });
    }

    #[test]
    fn a_lent_timer_fires_in_time_for_an_earlier_deadline_and_stays_set_for_a_later_one() {
        runtime().block_on(async {
            let now = Instant::now();
            let loan = needed(Some(set(10 * SECOND))).lend();
            let timer = take(SECOND);
            assert_eq!((timer.until, timer.sleep.deadline()), (now + SECOND, now + SECOND));
            put_back(timer);
            let timer = take(5 * SECOND);
            assert_eq!((timer.until, timer.sleep.deadline()), (now + 5 * SECOND, now + SECOND));
            drop(loan.end());
        });
    }

    #[test]
    fn a_connection_lends_a_timer_once_a_call_has_needed_one() {
        runtime().block_on(async {
            let loan = CallTimer::default().lend();
            put_back(set(SECOND));
            let timer = loan.end();
            assert_eq!(address(&timer), None);
            let loan = timer.lend();
            put_back(set(SECOND));
            let timer = loan.end();
            let kept = address(&timer);
            assert!(kept.is_some());
            let loan = timer.lend();
            put_back(take(SECOND));
            assert_eq!(address(&loan.end()), kept);
            // No call needed one.
            let loan = CallTimer::default().lend().end().lend();
            put_back(set(SECOND));
            assert_eq!(address(&loan.end()), None);
        });
    }

    #[test]
    fn a_timer_of_another_runtime_is_not_used() {
        let loan = runtime().block_on(async { needed(Some(set(SECOND))).lend() });
        let other = runtime();
        let timer_runtime = other.block_on(async { take(SECOND).runtime });
        assert_eq!(timer_runtime, Some(other.handle().id()));
        drop(loan.end());
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_a_year_away() {
        runtime().block_on(async {
            let year = 365 * 24 * 3600 * SECOND;
            assert_eq!(take(Duration::MAX).until, Instant::now() + year);
        });
    }
}
