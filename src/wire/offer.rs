//! Writes that the author of a session brings about: before more is queued, and beside something else.

use std::task::{Context, Poll, Waker};

use tokio::task::coop::{has_budget_remaining, poll_proceed};

use super::Wire;
use crate::error::{Error, Result, SessionError};

impl Wire {
    /// Called when more is queued than the high-water mark and one more frame is to be: writes what is taken at once, and
    /// fails if the write limit is reached all the same.
    ///
    /// It tries again whenever as much as the mark was queued since the last time, and always before it fails.
    #[cold]
    pub(crate) fn offer(&mut self) -> Result {
        self.check_live()?;
        let max = self.limits.write_limit;
        if self.unwritten() >= max || self.output.is_due(self.limits.high_water) {
            self.poll_offer()?;
        }
        if self.unwritten() < max {
            return Ok(());
        }
        self.over_limit = true;
        Err(SessionError::WriteLimit { max }.into())
    }

    /// One write that nobody waits for.
    fn poll_offer(&mut self) -> Result {
        // The next poll of the session has its task woken instead.
        let cx = &mut Context::from_waker(Waker::noop());
        if !has_budget_remaining() {
            // So that a peer that reads fast does not turn a loop of `reply` into one without end.
            if !self.has_turn() {
                return Ok(());
            }
            self.count_turn();
        }
        let offered = self.poll_flush(cx);
        if offered.is_pending() && self.unwritten() >= self.limits.write_limit {
            self.write_now()?;
        }
        self.output.pause();
        // A peer that has not taken all may read at this moment, of which the runtime hears between two turns. So the rest
        // of this one is given up: the author's next await, if it is one of tokio's or ours, lets others run.
        for _ in 0..=u8::MAX {
            let Poll::Ready(budget) = poll_proceed(cx) else { break };
            budget.made_progress();
            if self.has_room() {
                break;
            }
        }
        if let Poll::Ready(offered) = offered { offered } else { Ok(()) }
    }

    /// Asks the kernel itself: that the peer has read on the runtime hears between two turns only.
    fn write_now(&mut self) -> Result {
        let waiting = self.output.len();
        let written = self.output.write_now(&mut self.connection);
        self.moved |= self.output.len() < waiting;
        self.count_memory();
        written.map_err(|error| self.failed(Error::wire(error)))
    }

    /// Whether a frame was refused for the write limit, and is missing behind those that wait.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.over_limit
    }

    /// Writes everything, and keeps the connection going until it is written.
    pub(crate) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.check_live()?;
        match self.poll_flush(cx) {
            Poll::Pending => self.poll_tend_until(Self::is_written, cx),
            written => written,
        }
    }

    /// Writes until more may be queued, and keeps the connection going meanwhile.
    pub(crate) fn poll_room_written(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.check_live()?;
        if self.has_room() {
            return Poll::Ready(Ok(()));
        }
        match self.poll_flush(cx) {
            Poll::Pending => self.poll_tend_until(Self::has_room, cx),
            written => written,
        }
    }

    fn is_written(&self) -> bool {
        self.output.is_flushed()
    }

    /// Tends the connection, which writes as well: once what is waited for is so, nothing would wake us for it.
    fn poll_tend_until(&mut self, is_so: fn(&Self) -> bool, cx: &mut Context<'_>) -> Poll<Result> {
        match self.poll_tend(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending if is_so(self) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Called when what the author awaited is there: writes what was replied, unless more was received than that. Then the
    /// author goes on to `next`, which writes once for all.
    pub(crate) fn write_between(&mut self, cx: &mut Context<'_>) {
        if self.input.is_empty() {
            // An error ends the connection, which `next` and `flush` say.
            let _ = self.poll_flush(cx);
        }
    }
}
