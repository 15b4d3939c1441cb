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

/// How long the awaited future has been pending while answers are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// It has not been, or not for as long as the other two.
    Not,
    /// While the tasks that were ready to run have run.
    Round,
    /// The same, until the scheduler woke the tasks that had yielded their turn.
    Yield,
    /// For a turn of the scheduler: while all these have run as well.
    Turn,
}

/// Whether the runtime has one thread, so that a task that wakes itself comes after all others
/// that are ready. With more threads it would come at once, on a thread woken for it.
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
        self.waited = Waited::Not;
    }

    /// If answers are queued, gives the awaited future one turn of the scheduler. Most calls are
    /// done by then, and all answers go out in one write.
    pub(crate) fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unwritten() == 0 {
            return Poll::Ready(());
        }
        match self.waited {
            // Left out after a slow call of the same burst: this one is probably slow as well.
            Waited::Not if self.alone && self.pause.is_none() => {
                self.wait_a_round(Waited::Round, cx);
            }
            // The task that yielded last is woken first, and comes before those that yielded while
            // this one waited.
            Waited::Yield => self.wait_a_round(Waited::Turn, cx),
            Waited::Not | Waited::Round => {
                // This task is woken after all others and the futures they wait for.
                let _ = pin!(yield_now()).poll(cx);
                self.waited =
                    if self.waited == Waited::Round { Waited::Yield } else { Waited::Turn };
                self.rest_untended();
            }
            Waited::Turn => return Poll::Ready(()),
        }
        Poll::Pending
    }

    /// Has this task come after the tasks that are ready to run, one of which the future usually
    /// waits for. If so it wakes this task too, which costs nothing more.
    #[inline]
    fn wait_a_round(&mut self, waited: Waited, cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
        self.waited = waited;
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

    /// Called when the awaited future is pending. If it takes longer than one turn, the connection
    /// is tended: the answers are written and one buffer is read ahead. Ready only with the error
    /// that ends the connection.
    ///
    /// If that wrote answers, there is a pause before it happens again: a burst of calls that all
    /// take longer than a turn would otherwise cost a write for each.
    #[inline]
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let first = self.waited == Waited::Not && self.alone && self.pause.is_none();
        if first && self.unwritten() > 0 {
            self.wait_a_round(Waited::Round, cx);
            return Poll::Pending;
        }
        self.poll_long_wait(cx)
    }

    /// The same without a look at the most frequent case.
    #[inline(never)]
    fn poll_long_wait(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.is_paused(cx) {
            self.waited = Waited::Turn;
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
