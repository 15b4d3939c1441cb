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
    /// Whether a connection lends a timer to the calls that this thread polls. In a cell without a
    /// destructor, because each poll of a connection sets it, and few connections have a timer.
    static LOAN: Cell<Loan> = const { Cell::new(Loan::Nothing) };
    /// The timer, if it is lent and no call has taken it.
    static LENT: Cell<Spare> = const { Cell::new(None) };
}

type Spare = Option<Pin<Box<DeadlineTimer>>>;

/// What a connection lends to its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loan {
    /// No connection lends anything.
    Nothing,
    /// A place for a timer: no call has made one yet, or one has taken it.
    Place,
    /// The timer.
    Timer,
}

/// The timer of a connection's calls: made by the first call that waits, and reused by the next.
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
pub struct CallTimer(Spare);

impl CallTimer {
    /// Lends the timer to all calls that this thread polls until the loan ends.
    #[inline]
    pub fn lend(self) -> LentTimer {
        let loan = if self.0.is_some() { Loan::Timer } else { Loan::Place };
        let outer = LOAN.replace(loan);
        let spare = if self.0.is_some() || outer == Loan::Timer { swap(self.0) } else { None };
        LentTimer { outer, spare }
    }
}

impl fmt::Debug for CallTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallTimer").field("is_set", &self.0.is_some()).finish()
    }
}

/// A [`CallTimer`] that is lent, until this is dropped or ended.
#[must_use = "dropping it ends the loan and drops the timer"]
pub struct LentTimer {
    /// The loan around this one: a call of one connection may poll another connection.
    outer: Loan,
    /// The timer of that loan.
    spare: Spare,
}

impl LentTimer {
    /// Ends the loan and returns the timer, for the next one.
    #[inline]
    pub fn end(mut self) -> CallTimer {
        let timer = self.give_back();
        // Nothing is left to do, and this is done at each poll of a connection.
        std::mem::forget(self);
        CallTimer(timer)
    }

    #[inline]
    fn give_back(&mut self) -> Spare {
        let loan = LOAN.replace(self.outer);
        let moves = loan == Loan::Timer || self.outer == Loan::Timer;
        if moves { swap(self.spare.take()) } else { None }
    }
}

impl Drop for LentTimer {
    fn drop(&mut self) {
        drop(self.give_back());
    }
}

impl fmt::Debug for LentTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentTimer").field("outer", &self.outer).finish_non_exhaustive()
    }
}

/// Replaces the lent timer and returns the previous one. On a thread that is being torn down it
/// does nothing.
#[inline(never)]
fn swap(timer: Spare) -> Spare {
    LENT.try_with(|lent| lent.replace(timer)).ok().flatten()
}

/// A timer for a call that begins to wait now: the lent one, or a new one.
pub(super) fn take(patience: Duration) -> Pin<Box<DeadlineTimer>> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let now = Instant::now();
    let until = now.checked_add(patience).unwrap_or_else(|| now + YEAR);
    let runtime = this_runtime();
    let spare = if LOAN.get() == Loan::Timer {
        LOAN.set(Loan::Place);
        swap(None)
    } else {
        None
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
    if LOAN.get() == Loan::Place {
        LOAN.set(Loan::Timer);
        drop(swap(Some(timer)));
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

    fn address(timer: &CallTimer) -> Option<*const DeadlineTimer> {
        timer.0.as_ref().map(|timer| std::ptr::from_ref(timer.as_ref().get_ref()))
    }

    #[test]
    fn a_loan_that_is_dropped_gives_way_to_the_one_around_it() {
        runtime().block_on(async {
            let timer = CallTimer(Some(set(SECOND)));
            let lent = address(&timer);
            let outer = timer.lend();
            drop(CallTimer::default().lend());
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
            let loan = CallTimer(Some(set(10 * SECOND))).lend();
            let timer = take(SECOND);
            assert_eq!((timer.until, timer.sleep.deadline()), (now + SECOND, now + SECOND));
            put_back(timer);
            let timer = take(5 * SECOND);
            assert_eq!((timer.until, timer.sleep.deadline()), (now + 5 * SECOND, now + SECOND));
            drop(loan.end());
        });
    }

    #[test]
    fn a_timer_of_another_runtime_is_not_used() {
        let loan = runtime().block_on(async { CallTimer(Some(set(SECOND))).lend() });
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
