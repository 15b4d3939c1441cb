//! Writes that a session causes: before more is queued, and while it awaits another future.

use std::task::{Context, Poll, Waker};

use tokio::task::coop::{has_budget_remaining, poll_proceed};

use super::Wire;
use super::large::LARGE;
use ropewalk_middleware::{Error, Result, SessionError};

impl Wire {
    /// Called before a frame is queued while more than the high-water mark is queued: writes as
    /// much as the kernel accepts at once, and fails if the write limit is still reached.
    ///
    /// It tries again whenever as many bytes as the mark were queued since the last attempt, and
    /// always before it fails.
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

    /// One write, without waiting for it.
    fn poll_offer(&mut self) -> Result {
        // The next poll of the session registers the waker instead.
        let cx = &mut Context::from_waker(Waker::noop());
        if !has_budget_remaining() {
            // Counted, so that a loop of `feed` to a peer that reads fast also yields.
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
        // A peer that has not accepted all may read at this moment, which the runtime learns only
        // between two turns. The rest of this turn is given up, so that the session's next await on
        // a tokio or ropewalk future lets others run.
        for _ in 0..=u8::MAX {
            let Poll::Ready(budget) = poll_proceed(cx) else { break };
            budget.made_progress();
            if self.has_room() {
                break;
            }
        }
        if let Poll::Ready(offered) = offered { offered } else { Ok(()) }
    }

    /// Queues bytes after the queued frames. If they reach the high-water mark, they are written
    /// first as far as the transport accepts them at once, and only the rest is copied into the
    /// queue.
    pub(crate) fn encode_raw(&mut self, mut bytes: &[u8]) -> Result {
        self.stats().excuse_first_frame();
        if bytes.len() >= LARGE && self.unwritten() + bytes.len() >= self.limits.high_water {
            let cx = &mut Context::from_waker(Waker::noop());
            let rest = self.output.write_through(&mut self.connection, bytes, cx);
            let rest = rest.map_err(|error| self.failed(Error::wire(error)))?;
            self.moved |= rest.len() < bytes.len();
            bytes = rest;
        }
        self.output.buf().extend_from_slice(bytes);
        Ok(())
    }

    /// Asks the kernel itself, because the runtime learns only between two turns that the peer has
    /// read.
    fn write_now(&mut self) -> Result {
        let waiting = self.output.len();
        let written = self.output.write_now(&mut self.connection);
        self.moved |= self.output.len() < waiting;
        self.count_memory();
        written.map_err(|error| self.failed(Error::wire(error)))
    }

    /// Whether a frame was refused because of the write limit, and is missing after the queued
    /// ones.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.over_limit
    }

    /// Writes all queued bytes, and tends the connection until they are written.
    pub(crate) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.check_live()?;
        match self.poll_flush(cx) {
            Poll::Pending => self.poll_tend_until(Self::is_written, cx),
            written => written,
        }
    }

    /// Writes until more may be queued, and tends the connection meanwhile.
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

    /// Tends the connection, which writes as well. Afterwards the condition is checked again,
    /// because the task would not be woken for it.
    fn poll_tend_until(&mut self, is_so: fn(&Self) -> bool, cx: &mut Context<'_>) -> Poll<Result> {
        match self.poll_tend(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending if is_so(self) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether answers are written when the future that a session awaits is ready: not if more
    /// frames were received. In that case the session goes on to `next`, which writes once for all.
    #[inline]
    pub(crate) fn writes_between(&self) -> bool {
        self.input.is_empty() && !self.output.is_flushed()
    }

    /// Writes these answers.
    pub(crate) fn write_between(&mut self, cx: &mut Context<'_>) {
        if self.writes_between() {
            // An error ends the connection, and `next` and `flush` return it.
            let _ = self.poll_flush(cx);
        }
    }
}
