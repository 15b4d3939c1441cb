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
    /// That of the connection whose calls are being polled here; `None` where no connection lends one.
    static LENT: Cell<Option<CallTimer>> = const { Cell::new(None) };
}

/// The timer of a connection's calls: made by the first that waits, and left to the next.
///
/// Code that polls the calls of a connection keeps one and lends it meanwhile, as `framed` and `Session::drive` do. So a
/// call under a [`CallDeadlineLayer`](crate::CallDeadlineLayer) need not hold on to what its connection shares, which
/// would cost each frame a reference count.
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
pub struct CallTimer(Option<Pin<Box<Timer>>>);

impl CallTimer {
    /// For whatever this thread polls until the loan ends.
    pub fn lend(self) -> LentTimer {
        LentTimer { outer: swap(Some(self)) }
    }
}

impl fmt::Debug for CallTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallTimer").field("is_set", &self.0.is_some()).finish()
    }
}

/// A [`CallTimer`] that is lent, until this is dropped or ended.
#[derive(Debug)]
#[must_use = "dropped, it ends, and the timer with it"]
pub struct LentTimer {
    /// One connection may poll another.
    outer: Option<CallTimer>,
}

impl LentTimer {
    /// The timer, for the next time.
    pub fn end(self) -> CallTimer {
        swap(None).unwrap_or_default()
    }
}

impl Drop for LentTimer {
    fn drop(&mut self) {
        drop(swap(self.outer.take()));
    }
}

/// Puts another in the place of what is lent. A thread that is on its way out has nothing to lend.
fn swap(timer: Option<CallTimer>) -> Option<CallTimer> {
    LENT.try_with(|lent| lent.replace(timer)).ok().flatten()
}

/// A timer for a call that begins to wait now: the one that is lent, or a new one.
pub(super) fn take(patience: Duration) -> Pin<Box<Timer>> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let now = Instant::now();
    let until = now.checked_add(patience).unwrap_or_else(|| now + YEAR);
    let runtime = this_runtime();
    let lent = swap(None);
    let (is_lent, spare) = (lent.is_some(), lent.and_then(|timer| timer.0));
    if is_lent {
        swap(Some(CallTimer(None)));
    }
    // One of another runtime may never fire: a call may run a runtime of its own.
    let Some(mut timer) = spare.filter(|timer| timer.runtime == runtime) else {
        return Box::pin(Timer { until, runtime, sleep: sleep_until(until) });
    };
    let mut this = timer.as_mut().project();
    *this.until = until;
    // It was set by an earlier call, and so fires too early at worst; unless that one had longer.
    if this.sleep.deadline() > until {
        this.sleep.as_mut().reset(until);
    }
    timer
}

/// Leaves a timer, still set, to the next call that waits, if somebody lent it and it is the first to come back.
pub(super) fn put_back(timer: Pin<Box<Timer>>) {
    match swap(None) {
        Some(CallTimer(None)) => drop(swap(Some(CallTimer(Some(timer))))),
        other => drop(swap(other)),
    }
}

/// Whose timers are made here.
fn this_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

/// Ready once `until` has passed, however early it was set to fire.
#[pin_project]
#[derive(Debug)]
pub(super) struct Timer {
    until: Instant,
    runtime: Option<Id>,
    #[pin]
    sleep: Sleep,
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let fired = this.sleep.as_mut().poll(cx).is_ready();
            if !fired && coop::has_budget_remaining() {
                return Poll::Pending;
            }
            // A call that has used up its task's turn makes every timer say "not yet", so the clock is asked.
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
