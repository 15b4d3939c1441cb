//! A connection's share of its thread: after so much work the others get their turn.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::Wire;

/// Reads and frames of one turn, after which other connections get theirs.
pub(super) const STEPS_A_TURN: u32 = 256;

impl Wire {
    /// Counts one step of the turn: a read, or a frame, also one of a long answer, which may be encoded to nothing.
    #[inline]
    pub(crate) fn count_turn(&mut self) {
        self.turn += 1;
    }

    /// Pending, with a wake-up on its way, when this connection has had its share of the turn.
    #[inline]
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn < STEPS_A_TURN { Poll::Ready(()) } else { self.yield_turn(cx) }
    }

    #[cold]
    fn yield_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        cx.waker().wake_by_ref();
        self.rest()
    }

    /// One step of the session's author: of the connection's turn, and of the budget that tokio gives a task. Each await
    /// that a session offers takes one, so that a loop over it yields even if all of them are ready at once.
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
}
