//! A stream whose bytes pass at a rate.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::bucket::{Bucket, ByteRate, SharedBucket};
use crate::{Addr, Io, Stream};

/// How much a transport that can't tell may hold back of what has arrived: of TLS a record and what
/// is behind it.
const HELD: u64 = 64 * 1024;

/// A stream that reads and writes no faster than its rates.
pub(super) struct Limited {
    inner: Stream,
    read: Direction,
    write: Direction,
    /// The rate, or the size of a piece, and not a lack of bytes ended the last read.
    held: bool,
}

impl Limited {
    pub(super) fn new(inner: Stream, read: Direction, write: Direction) -> Self {
        Self { inner, read, write, held: false }
    }
}

/// One direction of a connection.
pub(super) struct Direction {
    own: Option<Bucket>,
    shared: Option<Arc<SharedBucket>>,
    turn: Option<Booking>,
    /// Made at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

/// From `from` on, `bytes` may pass; their time is booked in the shared bucket.
struct Booking {
    bytes: usize,
    from: Instant,
}

impl Direction {
    pub(super) fn new(own: Option<ByteRate>, shared: Option<Arc<SharedBucket>>) -> Self {
        Self { own: own.map(Bucket::new), shared, turn: None, timer: None }
    }

    fn is_limited(&self) -> bool {
        self.own.is_some() || self.shared.is_some()
    }

    /// Whether a turn is booked in the shared bucket.
    fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Ready with the number of bytes that may pass now, at most `wanted`. Then
    /// [`passed`](Self::passed) must be called.
    fn poll_turn(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        if self.turn.is_none() {
            // The connection's own rate comes first, so that a connection waiting for it books
            // nothing of the shared rate.
            if let Some(until) = self.own.as_ref().map(Bucket::free_from) {
                ready!(self.poll_wait(cx, until));
            }
            let now = Instant::now();
            let pieces = [
                self.own.as_ref().map(Bucket::rate),
                self.shared.as_ref().map(|shared| shared.rate()),
            ];
            let bytes =
                pieces.into_iter().flatten().fold(wanted, |bytes, rate| bytes.min(rate.piece()));
            let from = self.shared.as_ref().map_or(now, |shared| shared.take(bytes, now));
            self.turn = Some(Booking { bytes, from });
        }
        let Some(Booking { bytes, from }) = self.turn else { return Poll::Ready(wanted) };
        ready!(self.poll_wait(cx, from));
        Poll::Ready(bytes.min(wanted))
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        if until <= Instant::now() {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// Ends the turn in which these bytes passed.
    fn passed(&mut self, bytes: usize) {
        if let Some(own) = &mut self.own
            && bytes > 0
        {
            own.take(bytes, Instant::now());
        }
        if let Some(turn) = self.turn.take()
            && let Some(shared) = &self.shared
        {
            shared.give_back(turn.bytes - bytes);
        }
    }

    /// Ends the turn with the result of a read or write.
    fn settle(&mut self, polled: &Poll<io::Result<usize>>) {
        self.passed(match polled {
            Poll::Ready(Ok(bytes)) => *bytes,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        });
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.passed(0);
    }
}

impl Io for Limited {
    fn abort(&mut self) {
        self.inner.abort();
    }

    fn local_addr(&self) -> Option<Addr> {
        self.inner.local_addr()
    }

    /// A transport other than a socket may hold decrypted bytes, which it counts only as long as
    /// every read is ready: with a read that the rate has ended, more is said to have arrived, so
    /// that a drain reads on.
    fn arrived(&self) -> Option<u64> {
        let arrived = self.inner.arrived();
        match self.inner {
            Stream::Boxed(_) if self.held => Some(arrived.unwrap_or(0).saturating_add(HELD)),
            _ => arrived,
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_readable(cx)
    }

    fn handed_on(&self) -> u64 {
        self.inner.handed_on()
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, read, held, .. } = self.get_mut();
        if !read.is_limited() {
            return Pin::new(inner).poll_read(cx, buf);
        }
        // A connection that has nothing to read takes no turn.
        if !read.has_turn() && read.shared.is_some() {
            *held = false;
            ready!(inner.poll_readable(cx));
        }
        *held = true;
        let bytes = ready!(read.poll_turn(cx, buf.remaining()));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(bytes));
        let polled = Pin::new(inner).poll_read(cx, &mut part).map_ok(|()| part.filled().len());
        read.settle(&polled);
        *held = matches!(polled, Poll::Ready(Ok(read)) if read > 0);
        buf.advance(ready!(polled)?);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Limited {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, write, .. } = self.get_mut();
        if !write.is_limited() || buf.is_empty() {
            return Pin::new(inner).poll_write(cx, buf);
        }
        let bytes = ready!(write.poll_turn(cx, buf.len()));
        let polled = Pin::new(inner).poll_write(cx, &buf[..bytes]);
        write.settle(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.write.is_limited() {
            return Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs);
        }
        // Only the first buffer: a turn seldom has room for more.
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        !self.write.is_limited() && self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, read, .. } = self.get_mut();
        // A lingering close has two seconds to discard what the peer still sends.
        *read = Direction::new(None, None);
        Pin::new(inner).poll_shutdown(cx)
    }
}
