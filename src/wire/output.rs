//! Bytes on their way out.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ropewalk_middleware::Connection;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::scratch;
use super::timer::{Timer, after};
use crate::error::{Error, Result, SessionError};

/// So many write stalls a peer has in all for each [`PACE`] of its answers, also of the last.
const STALLS: u32 = 4;

/// A peer that takes a byte now and then never stalls. So one that is behind takes so much in [`STALLS`] write stalls, or
/// all there is: 546 bytes a second by default, however long it is behind.
const PACE: u64 = 64 * 1024;

/// Writes of one turn, after which other connections get theirs, for a transport that takes all there is in small pieces.
const WRITES_A_TURN: u32 = 64;
/// A buffer of this size is kept until all of it is written.
const SMALL: usize = 16 * 1024;

/// What has been encoded and not yet written.
#[derive(Default)]
pub(super) struct Output {
    buf: BytesMut,
    /// Whether `buf` is the thread's buffer, to be given back before we wait.
    lent: bool,
    /// Whether the transport may hold back what it took.
    unflushed: bool,
    /// The size of a buffer of our own, as far as it was seen: what was written of it is not given back yet. One of over
    /// 4 GiB counts as 4 GiB, so that this finds its place between others.
    size: u32,
    /// Boxed: few peers stall.
    stalled: Option<Box<Stall>>,
}

/// A peer that is behind.
struct Stall {
    /// Since when it has taken nothing, and how much the transport had handed on then.
    since: Instant,
    handed_on: u64,
    /// From then on it has [`STALLS`] to take so much more, unless it takes all.
    paced: Instant,
    owes: u64,
    /// Nobody offers it anything, since then.
    paused: Option<Instant>,
    /// How much was left when it was last offered something.
    left: usize,
}

impl Stall {
    fn new(now: Instant, handed_on: u64) -> Self {
        Self { since: now, handed_on, paced: now, owes: PACE, paused: None, left: 0 }
    }

    /// It took some, or what the transport held back (of this, or of what was written long ago) went on.
    fn progress(&mut self, taken: u64, handed_on: u64) {
        if let Some(paused) = self.paused.take() {
            // It could take no more than what it had been offered.
            self.paced += paused.elapsed();
        }
        let more = taken.max(handed_on.saturating_sub(self.handed_on));
        if more == 0 {
            return;
        }
        (self.since, self.handed_on) = (Instant::now(), handed_on);
        self.owes = self.owes.saturating_sub(more);
        if self.owes == 0 {
            (self.paced, self.owes) = (self.since, PACE);
        }
    }

    fn until(&self, patience: Duration) -> Instant {
        after(self.since, patience).min(after(self.paced, patience.saturating_mul(STALLS)))
    }
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    /// The bytes of memory it owns.
    #[inline]
    pub(super) fn owned(&mut self) -> usize {
        let capacity = self.buf.capacity();
        if self.lent && capacity <= scratch::KEEP {
            // The thread's, or about to be.
            return 0;
        }
        self.size = self.size.max(u32::try_from(capacity).unwrap_or(u32::MAX));
        self.size as usize
    }

    /// Whether the buffer has grown past what the thread has, and was not counted at its size yet.
    #[inline]
    pub(super) fn has_grown(&self) -> bool {
        self.buf.capacity() > scratch::KEEP && self.buf.capacity() > self.size as usize
    }

    /// Whether nothing is left to do.
    pub(super) fn is_flushed(&self) -> bool {
        self.buf.is_empty() && !self.unflushed && !self.lent
    }

    /// Where to encode to.
    #[inline]
    pub(super) fn buf(&mut self) -> &mut BytesMut {
        if self.buf.capacity() == 0 {
            self.borrow_scratch();
        }
        &mut self.buf
    }

    #[cold]
    fn borrow_scratch(&mut self) {
        self.buf = scratch::take_write();
        self.lent = true;
    }

    /// Nothing is written until further notice.
    pub(super) fn pause(&mut self) {
        if let Some(stall) = &mut self.stalled {
            stall.paused.get_or_insert_with(Instant::now);
        }
    }

    /// How long the peer has for all that waits now, where each piece it takes in time is enough.
    pub(super) fn patience_for_all(&self, patience: Duration) -> Duration {
        let paces = (self.buf.len() as u64).div_ceil(PACE).max(1);
        patience.saturating_mul(STALLS).saturating_mul(u32::try_from(paces).unwrap_or(u32::MAX))
    }

    /// Whether it is to be offered what waits: `more` was queued since the last time.
    pub(super) fn is_due(&self, more: usize) -> bool {
        self.stalled.as_ref().is_none_or(|stall| self.buf.len() >= stall.left.saturating_add(more))
    }

    /// Whether the peer is waited for.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Writes until all is written. Ready with an error when the peer has taken nothing for `patience`, or too little.
    pub(super) fn poll_flush(
        &mut self,
        connection: &mut Connection,
        patience: Duration,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        let waiting = self.buf.len();
        let mut writes = 0;
        while !self.buf.is_empty() {
            if writes == WRITES_A_TURN {
                // It is not waited for, but it is others' turn.
                cx.waker().wake_by_ref();
                return self.poll_stall(connection, patience, waiting - self.buf.len(), timer, cx);
            }
            writes += 1;
            // One piece: `send` costs the kernel less than `writev`.
            match Pin::new(&mut *connection).poll_write(cx, &self.buf) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::wire(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => {
                    self.buf.advance(written);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => return self.poll_stall(connection, patience, waiting - self.buf.len(), timer, cx),
            }
        }
        if self.unflushed {
            match Pin::new(&mut *connection).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => return self.poll_stall(connection, patience, waiting - self.buf.len(), timer, cx),
            }
        }
        if self.is_stalled() {
            connection.set_partial(false);
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    /// Writes what the kernel takes at this moment, for a peer that is behind.
    pub(super) fn write_now(&mut self, connection: &mut Connection) -> io::Result<()> {
        let waiting = self.buf.len();
        let mut written = Ok(1);
        while !self.buf.is_empty() && matches!(written, Ok(1..)) {
            written = connection.write_now(&self.buf);
            self.buf.advance(*written.as_ref().unwrap_or(&0));
        }
        let taken = waiting - self.buf.len();
        if taken > 0 {
            connection.set_partial(true);
            // The next flush finds out whether that was all.
            self.unflushed = true;
        }
        if let Some(stall) = &mut self.stalled {
            stall.progress(taken as u64, connection.stream().handed_on());
            stall.left = self.buf.len();
        }
        written.map(drop)
    }

    /// The deadline of a peer that takes nothing, which every byte it takes starts anew; and of one that takes little.
    fn poll_stall(
        &mut self,
        connection: &Connection,
        patience: Duration,
        taken: usize,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        self.keep();
        if taken > 0 {
            connection.set_partial(true);
        }
        let handed_on = connection.stream().handed_on();
        let stall = match &mut self.stalled {
            Some(stall) => {
                stall.progress(taken as u64, handed_on);
                stall
            }
            stalled @ None => stalled.insert(Box::new(Stall::new(Instant::now(), handed_on))),
        };
        stall.left = self.buf.len();
        timer.poll(stall.until(patience), cx).map(|()| Err(SessionError::WriteStalled.into()))
    }

    /// What the kernel did not take moves to a buffer of our own, sized to it; a buffer that it fills well is kept. Done
    /// again as the peer takes its answers, this copies no more than was written.
    pub(super) fn keep(&mut self) {
        let is_lent = std::mem::take(&mut self.lent);
        let size = self.buf.capacity().max(self.size as usize);
        let is_filled = self.buf.len() >= size / if is_lent { 2 } else { 4 };
        if is_filled || !is_lent && size <= SMALL {
            return;
        }
        let own = BytesMut::from(&self.buf[..]);
        let buf = std::mem::replace(&mut self.buf, own);
        self.size = 0;
        if is_lent {
            scratch::give_write(buf);
        }
    }

    /// Moves what waits out of the thread's buffer, to one with room for `more` besides, so that it need not grow at once; a
    /// buffer that is filled well is kept.
    #[inline]
    pub(super) fn keep_growing(&mut self, more: usize) {
        if std::mem::take(&mut self.lent) {
            self.keep_lent(more);
        }
    }

    fn keep_lent(&mut self, more: usize) {
        if self.buf.len() >= self.buf.capacity() / 2 {
            return;
        }
        let mut own = BytesMut::with_capacity(self.buf.len() + more.min(SMALL));
        own.extend_from_slice(&self.buf);
        scratch::give_write(std::mem::replace(&mut self.buf, own));
        self.size = 0;
    }

    fn release(&mut self) {
        self.size = 0;
        let buf = std::mem::take(&mut self.buf);
        if std::mem::take(&mut self.lent) {
            scratch::give_write(buf);
        }
        self.stalled = None;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("len", &self.len()).finish_non_exhaustive()
    }
}
