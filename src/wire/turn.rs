//! A connection's turn: after a number of steps other connections get theirs.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{coop, yield_now};

use super::{Source, Wire};
use ropewalk_middleware::Error;

/// Reads and frames of one turn, after which other connections get theirs.
pub(super) const STEPS_A_TURN: u32 = 256;

/// The next step of a wait while answers are queued: the awaited future, usually a call, gets a turn
/// of the scheduler before they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitStep {
    /// The tasks that are ready to run are awaited.
    Round,
    /// The same, until the scheduler wakes the tasks that have yielded their turn.
    Yield,
    /// On one thread the task that yielded last is woken first: those that yielded while it waited
    /// are awaited as well.
    LastRound,
    /// The turn is over.
    Over,
}

impl WaitStep {
    /// The first step of a wait. With several threads there are no rounds: a task that wakes itself
    /// would come at once, on a thread woken for it.
    pub(super) fn first(alone: bool) -> Self {
        if alone { Self::Round } else { Self::Yield }
    }
}

/// Whether the runtime has one thread, so that a task that wakes itself comes after all others
/// that are ready.
pub(super) fn is_alone() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// How much is read ahead of a pending call or a pending write: one buffer.
const READ_AHEAD: usize = 64 * 1024;

impl Wire {
    /// Counts one step of the turn: a read, or a frame, including each frame of a long answer,
    /// which may be encoded as zero bytes.
    #[inline]
    pub(crate) fn count_turn(&mut self) {
        self.turn += 1;
    }

    /// Whether this connection has steps left in its turn.
    #[inline]
    pub(crate) fn has_turn(&self) -> bool {
        self.turn < STEPS_A_TURN
    }

    /// Whether there are steps left and there is room for answers: a quick look at the usual case.
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        self.has_turn() && self.output.is_quick()
    }

    /// Whether nothing keeps the next frame from being decoded, and nothing has to be recorded
    /// before that: the same look, for a session.
    #[inline]
    pub(crate) fn is_quick(&self) -> bool {
        self.goes_on() && !self.closing.is_aborted()
    }

    /// Pending, with a wake-up scheduled, when this connection has used up its turn.
    #[inline]
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_turn() { Poll::Ready(()) } else { self.yield_turn(cx) }
    }

    #[cold]
    fn yield_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        cx.waker().wake_by_ref();
        self.rest()
    }

    /// One step of a session, counted in the connection's turn and in the budget that tokio gives a
    /// task. Each async method of a session takes one, so that a loop over it yields even if it is
    /// always ready at once.
    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_turn(cx));
        match coop::poll_proceed(cx) {
            Poll::Ready(budget) => budget.made_progress(),
            Poll::Pending => return self.rest(),
        }
        self.count_turn();
        Poll::Ready(())
    }

    /// The same as a future.
    pub(crate) async fn step(&mut self) {
        poll_fn(|cx| self.poll_step(cx)).await;
    }

    /// Begins a wait for another future: a call, the next frame of an answer, or a session's
    /// future.
    #[inline]
    pub(crate) fn begin_wait(&mut self) {
        self.step = self.first_step;
    }

    /// Called when the burst is over: the calls of the next one may be quick.
    pub(super) fn end_waits(&mut self) {
        self.pause = None;
        self.first_step = WaitStep::first(self.alone);
    }

    /// If answers are queued, gives the awaited future one turn of the scheduler. Most calls are
    /// done by then, and all answers go out in one write.
    pub(crate) fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unwritten() == 0 {
            return Poll::Ready(());
        }
        match self.step {
            WaitStep::Round => self.wait_a_round(WaitStep::Yield, cx),
            WaitStep::Yield => {
                // Most waits of one burst are for the same thing. If a round is not enough for one
                // of them, the next ones are not polled after it.
                self.first_step = WaitStep::Yield;
                // This task is woken after all others and the futures they wait for.
                let _ = pin!(yield_now()).poll(cx);
                self.step = if self.alone { WaitStep::LastRound } else { WaitStep::Over };
                self.rest_untended();
            }
            WaitStep::LastRound => self.wait_a_round(WaitStep::Over, cx),
            WaitStep::Over => return Poll::Ready(()),
        }
        Poll::Pending
    }

    /// Has this task come after the tasks that are ready to run, one of which the future usually
    /// waits for. If so it wakes this task too, which costs nothing more.
    #[inline]
    fn wait_a_round(&mut self, next: WaitStep, cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
        self.step = next;
        self.rest_untended();
    }

    /// Waits for the awaited future alone.
    #[inline]
    fn rest_untended(&mut self) {
        if self.moved || self.output.is_lent() {
            self.leave_burst();
        }
        self.turn = 0;
    }

    /// Called at the first wait of a burst.
    #[inline(never)]
    fn leave_burst(&mut self) {
        // The other connections write meanwhile. The rest of the burst will be answered with about
        // as many bytes.
        self.output.keep_growing(self.input.len());
        // If no bytes were read or written since the last wait, nothing is left to be recorded.
        if self.moved {
            let _ = self.rest::<()>();
        }
    }

    /// The first step of most waits: whether the awaited future, which is pending, gets a round of
    /// the tasks that are ready to run. If so the task will be woken, and nothing else is due.
    #[inline(always)]
    pub(crate) fn waits_a_round(&mut self, cx: &mut Context<'_>) -> bool {
        let waits = self.step == WaitStep::Round && self.unwritten() > 0;
        if waits {
            self.wait_a_round(WaitStep::Yield, cx);
        }
        waits
    }

    /// Called when the awaited future is pending. If it takes longer than one turn, the connection
    /// is tended: the answers are written and one buffer is read ahead. Ready only with the error
    /// that ends the connection.
    ///
    /// If that wrote answers, there is a pause before it happens again: a burst of calls that all
    /// take longer than a turn would otherwise cost a write for each.
    #[inline]
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waits_a_round(cx) { Poll::Pending } else { self.poll_long_wait(cx) }
    }

    /// The same without a look at the most frequent case.
    #[inline(never)]
    pub(crate) fn poll_long_wait(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.is_paused(cx) {
            self.step = WaitStep::Over;
            self.rest_untended();
            return Poll::Pending;
        }
        if self.poll_waited(cx).is_pending() {
            return Poll::Pending;
        }
        let waiting = self.unwritten();
        let tended = self.poll_tend(cx);
        if self.unwritten() < waiting && tended.is_pending() {
            self.begin_pause(cx);
        }
        tended
    }

    /// Tends the connection while another future is awaited: writes the answers and reads ahead,
    /// one buffer at most. Ready only with the error that ends the connection.
    pub(crate) fn poll_tend(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(error);
        }
        self.closing.watch(cx);
        if self.closing.is_aborted() {
            return Poll::Ready(self.aborted());
        }
        while self.source == Source::Open
            && self.input.len() < READ_AHEAD
            && self.poll_memory(cx).is_ready()
        {
            ready!(self.poll_turn(cx));
            match self.poll_read(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => break,
            }
        }
        self.rest()
    }
}
