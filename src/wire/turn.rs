//! A connection's share of its thread: after so much work the others get their turn.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use tokio::task::{coop, yield_now};

use super::Wire;
use crate::error::Error;

/// Reads and frames of one turn, after which other connections get theirs.
pub(super) const STEPS_A_TURN: u32 = 256;

impl Wire {
    /// Counts one step of the turn: a read, or a frame, also one of a long answer, which may be encoded to nothing.
    #[inline]
    pub(crate) fn count_turn(&mut self) {
        self.turn += 1;
    }

    /// Whether this connection has not had its share of the turn.
    #[inline]
    pub(crate) fn has_turn(&self) -> bool {
        self.turn < STEPS_A_TURN
    }

    /// Pending, with a wake-up on its way, when this connection has had its share of the turn.
    #[inline]
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_turn() { Poll::Ready(()) } else { self.yield_turn(cx) }
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

    /// Something new is awaited: a call, the next frame of an answer, the author's future.
    #[inline]
    pub(crate) fn begin_wait(&mut self) {
        self.waited = false;
    }

    /// Where answers wait to be written: gives what is awaited one turn of the scheduler. Most calls are done by then, and the
    /// answers go out in one write.
    pub(crate) fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unwritten() == 0 || std::mem::replace(&mut self.waited, true) {
            return Poll::Ready(());
        }
        // The other connections write meanwhile. What is left of the burst is answered with about as many bytes.
        self.output.keep_growing(self.input.len());
        // It wakes us behind all others and behind what they wait for, where a wake-up by hand might come before.
        let _ = pin!(yield_now()).poll(cx);
        if self.moved {
            return self.rest();
        }
        // Nothing was read or written since the last wait.
        self.turn = 0;
        Poll::Pending
    }

    /// Called when what is awaited is pending. If it takes longer than one turn, the connection goes on meanwhile: what was
    /// answered is written and one buffer is read ahead. Ready only with the error that ends the connection.
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        ready!(self.poll_waited(cx));
        self.poll_tend(cx)
    }
}
