//! Bytes to be written.

mod keep;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_middleware::{Connection, Error, Result, SessionError};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::large::{LARGE, Large, no_parts};
use super::scratch;
use super::stall::{PACE, STALLS, Stall};
use super::timer::Timer;

/// The writes of one turn, after which other connections get theirs: for a transport that accepts
/// all bytes, but in small pieces.
const WRITES_A_TURN: u32 = 64;

/// The bytes that are encoded and not written yet.
#[derive(Default)]
pub(super) struct OutputBuffer {
    buf: BytesMut,
    /// The frames between these bytes that are too large to be copied. Boxed, because few
    /// connections have one.
    large: Option<Box<Large>>,
    /// Whether `buf` is the thread's buffer, which is returned before a wait.
    lent: bool,
    /// Bytes were taken from the front of `buf`, which begins behind them.
    shifted: bool,
    /// Whether the transport may hold back bytes that it has accepted.
    unflushed: bool,
    /// It is recorded on the connection that a part of the queued bytes is written.
    partial: bool,
    /// The size of the connection's own buffer when it was last seen; the memory of written bytes
    /// is not freed yet. More than 4 GiB count as 4 GiB, so that the field fits into a gap between
    /// others.
    size: u32,
    /// With less than this in `buf` there is room, no large frame is queued, and the peer is not
    /// behind; 0 if that has to be looked at.
    quick: u32,
    /// Boxed, because few peers stall.
    stalled: Option<Box<Stall>>,
}

impl OutputBuffer {
    /// Whether there is certainly room and nothing unusual under way.
    #[inline]
    pub(super) fn is_quick(&self) -> bool {
        self.buf.len() < self.quick as usize
    }

    /// Called when all is written: from here on fewer than `high_water` bytes are quick.
    #[inline]
    pub(super) fn set_quick(&mut self, high_water: usize) {
        self.quick = u32::try_from(high_water).unwrap_or(u32::MAX);
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.buf.len() + self.large_len()
    }

    #[inline]
    fn large_len(&self) -> usize {
        self.large.as_ref().map_or(0, |large| large.len())
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.large.is_none()
    }

    /// The bytes of memory it owns, or keeps alive.
    #[inline]
    pub(super) fn owned(&mut self) -> usize {
        let capacity = self.buf.capacity();
        if self.lent && capacity <= scratch::KEEP {
            // It is the thread's buffer, or about to be.
            return self.large_len();
        }
        self.size = self.size.max(u32::try_from(capacity).unwrap_or(u32::MAX));
        self.size as usize + self.large_len()
    }

    /// Whether `has_grown` has to be asked.
    #[inline]
    pub(super) fn may_have_grown(&self) -> bool {
        self.buf.capacity() > scratch::KEEP || self.large.is_some()
    }

    /// Whether the buffer has grown beyond the size of the thread's buffer, and its new size is not
    /// counted yet.
    pub(super) fn has_grown(&self) -> bool {
        self.buf.capacity() > scratch::KEEP && self.buf.capacity() > self.size as usize
            || self.large.is_some()
    }

    /// Whether all is written and flushed.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_empty() && !self.unflushed && !self.lent
    }

    /// Queues bytes; of a large frame only its handle.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < LARGE {
            return self.buf().extend_from_slice(&bytes);
        }
        self.push_large(self.buf.len(), bytes);
    }

    /// Queues a large frame `at` bytes into the buffer, after the large frames before it.
    pub(super) fn push_large(&mut self, at: usize, frame: Bytes) {
        if !frame.is_empty() {
            self.quick = 0;
            self.large.get_or_insert_default().push(at, frame);
        }
    }

    /// Whether the queued bytes are in the thread's buffer.
    #[inline]
    pub(super) fn is_lent(&self) -> bool {
        self.lent
    }

    /// The buffer to encode into.
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

    /// No bytes are written until the next flush, so the time doesn't count.
    pub(super) fn pause(&mut self) {
        if let Some(stall) = &mut self.stalled {
            stall.paused.get_or_insert_with(Instant::now);
        }
    }

    /// The total time that the peer has for all queued bytes if it just keeps the pace.
    pub(super) fn patience_for_all(&self, patience: Duration) -> Duration {
        let paces = (self.len() as u64).div_ceil(PACE).max(1);
        patience.saturating_mul(STALLS).saturating_mul(u32::try_from(paces).unwrap_or(u32::MAX))
    }

    /// Whether the queued bytes should be offered: `more` were queued since the last time.
    pub(super) fn is_due(&self, more: usize) -> bool {
        self.stalled.as_ref().is_none_or(|stall| self.len() >= stall.left.saturating_add(more))
    }

    /// Whether the wire waits for the peer.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Writes until all is written. Ready with an error when the peer has accepted no bytes for
    /// `patience`, or too few.
    pub(super) fn poll_flush(
        &mut self,
        connection: &mut Connection,
        patience: Duration,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        let waiting = self.len();
        let mut writes = 0;
        while !self.is_empty() {
            if writes == WRITES_A_TURN {
                // The peer is not the cause of this pause: it is the turn of other connections.
                cx.waker().wake_by_ref();
                return self.poll_stall(connection, patience, waiting - self.len(), timer, cx);
            }
            writes += 1;
            match self.poll_write(Pin::new(&mut *connection), cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Error::wire(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(written)) => {
                    self.advance(written);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => {
                    return self.poll_stall(connection, patience, waiting - self.len(), timer, cx);
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut *connection).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => {
                    return self.poll_stall(connection, patience, waiting - self.len(), timer, cx);
                }
            }
        }
        if std::mem::take(&mut self.partial) {
            connection.set_partial(false);
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &self,
        connection: Pin<&mut Connection>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &self.large {
            Some(large) if connection.is_write_vectored() => {
                let mut parts = no_parts();
                let n = large.parts(&self.buf, &mut parts);
                connection.poll_write_vectored(cx, &parts[..n])
            }
            // One slice, because `send` costs the kernel less than `writev`.
            _ => connection.poll_write(cx, self.first()),
        }
    }

    /// The bytes to be written next, in one piece.
    #[inline]
    fn first(&self) -> &[u8] {
        match &self.large {
            Some(large) => large.first(&self.buf),
            None => &self.buf,
        }
    }

    #[inline(always)]
    fn advance(&mut self, written: usize) {
        if written == self.buf.len() && self.large.is_none() {
            // The buffer keeps its beginning, so nothing has to be done before its next use.
            self.buf.clear();
        } else {
            self.advance_part(written);
        }
    }

    #[cold]
    fn advance_part(&mut self, written: usize) {
        self.shifted = true;
        let Some(large) = &mut self.large else { return self.buf.advance(written) };
        large.advance(&mut self.buf, written);
        if large.len() == 0 {
            self.large = None;
        }
    }

    /// Writes what is queued and then these bytes, as much as the transport accepts at once.
    /// Returns the rest of these bytes, which are not queued. Not for a peer that is behind.
    pub(super) fn write_through<'a>(
        &mut self,
        connection: &mut Connection,
        bytes: &'a [u8],
        cx: &mut Context<'_>,
    ) -> io::Result<&'a [u8]> {
        if self.large.is_some() || self.is_stalled() || !connection.is_write_vectored() {
            return Ok(bytes);
        }
        let parts = [IoSlice::new(&self.buf), IoSlice::new(bytes)];
        let from = usize::from(self.buf.is_empty());
        let Poll::Ready(written) =
            Pin::new(&mut *connection).poll_write_vectored(cx, &parts[from..])?
        else {
            return Ok(bytes);
        };
        self.unflushed |= written > 0;
        let queued = written.min(self.buf.len());
        self.shifted |= queued > 0;
        self.buf.advance(queued);
        let rest = &bytes[written - queued..];
        if written > 0 && !(rest.is_empty() && self.buf.is_empty()) {
            self.note_partial(connection);
        }
        Ok(rest)
    }

    /// Records that a part of the queued bytes is written: if the connection is dropped now, it
    /// must be reset.
    fn note_partial(&mut self, connection: &Connection) {
        self.partial = true;
        connection.set_partial(true);
    }

    /// Writes as much as the kernel accepts at this moment, for a peer that is behind.
    pub(super) fn write_now(&mut self, connection: &mut Connection) -> io::Result<()> {
        let waiting = self.len();
        let mut written = Ok(1);
        while !self.is_empty() && matches!(written, Ok(1..)) {
            written = connection.write_now(self.first());
            self.advance(*written.as_ref().unwrap_or(&0));
        }
        let taken = waiting - self.len();
        if taken > 0 {
            self.note_partial(connection);
            // The next flush checks whether that was all.
            self.unflushed = true;
        }
        let left = self.len();
        if let Some(stall) = &mut self.stalled {
            stall.progress(taken as u64, connection.stream().handed_on());
            stall.left = left;
        }
        written.map(drop)
    }

    /// The earlier of two deadlines: for a peer that accepts no bytes, which starts again with
    /// every accepted byte; and for one that accepts too few.
    fn poll_stall(
        &mut self,
        connection: &Connection,
        patience: Duration,
        taken: usize,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        self.keep();
        self.quick = 0;
        if taken > 0 {
            self.note_partial(connection);
        }
        let handed_on = connection.stream().handed_on();
        let left = self.len();
        let stall = match &mut self.stalled {
            Some(stall) => {
                stall.progress(taken as u64, handed_on);
                stall
            }
            stalled @ None => stalled.insert(Box::new(Stall::new(Instant::now(), handed_on))),
        };
        stall.left = left;
        timer.poll(stall.until(patience), cx).map(|()| Err(SessionError::WriteStalled.into()))
    }

    #[inline]
    fn release(&mut self) {
        self.size = 0;
        let buf = std::mem::take(&mut self.buf);
        let shifted = std::mem::take(&mut self.shifted);
        if std::mem::take(&mut self.lent) {
            scratch::give_write(buf, shifted);
        }
        self.stalled = None;
    }
}

impl Drop for OutputBuffer {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for OutputBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}
