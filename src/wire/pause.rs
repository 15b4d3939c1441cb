//! The pause between two writes ahead of calls under way.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::Instant;

use super::turn::WaitStep;
use super::{Timer, Wire};

/// The length of the first pause: a tick of tokio's clock.
const SHORTEST: Duration = Duration::from_millis(1);
/// If this many answers or more were written since the last pause began, and that was short ago, the
/// next one is twice as long, up to the longest.
const MANY: u64 = 4;
const LONGEST: Duration = Duration::from_millis(8);

/// The time after a write ahead of calls under way, until which there is no other.
#[derive(Debug)]
pub(super) struct Pause {
    until: Instant,
    length: Duration,
    /// The number of answers when it began.
    answers: u64,
    /// The task that is woken at its end; `None` once it is over.
    wakes: Option<Waker>,
}

impl Pause {
    /// Whether the calls since it began were quick. Calls that take long may end together, so the
    /// time counts as well.
    fn were_many(&self, answers: u64, now: Instant) -> bool {
        answers - self.answers >= MANY && now <= self.until + self.length
    }
}

impl Wire {
    /// Whether the answers still wait. If so, the task is woken when they are due.
    pub(super) fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        let Some(task) = &mut pause.wakes else { return false };
        // Asked for each call that waits, and cheaper than a poll of the timer.
        if task.will_wake(cx.waker()) && self.timer.is_set_by(pause.until) {
            return true;
        }
        if poll_whole(&mut self.timer, pause.until, cx).is_pending() {
            task.clone_from(cx.waker());
            return true;
        }
        pause.wakes = None;
        false
    }

    /// Begins a pause after a write.
    pub(super) fn begin_pause(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        let answers = self.stats().frames_out();
        let length = match &self.pause {
            Some(last) if last.were_many(answers, now) => LONGEST.min(last.length * 2),
            _ => SHORTEST,
        };
        let until = now + length;
        // The time begins now; only the wake-up is of interest.
        let _ = poll_whole(&mut self.timer, until, cx);
        let wakes = Some(cx.waker().clone());
        // The other calls of this burst are probably slow as well.
        self.first_step = WaitStep::Yield;
        self.pause = Some(Box::new(Pause { until, length, answers, wakes }));
    }
}

/// Polls the timer so that it is set afterwards. A call may have used up the task's budget, and then
/// the timer would have this task polled once more instead, when the pause takes it for set.
fn poll_whole(timer: &mut Timer, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
    pin!(unconstrained(poll_fn(|cx| timer.poll(until, cx)))).poll(cx)
}
