//! Bytes on their way in.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_middleware::Connection;
use tokio_util::io::poll_read_buf;

use super::scratch;

/// Up to this much of a frame is carried over into the thread's buffer at the next read; a longer part stays where it
/// is and grows in place, so that a frame dripped in small pieces is not copied at every piece.
const CARRY: usize = 1024;
/// The least room a read is given.
const ROOM: usize = 4 * 1024;
/// A buffer grows by what is in it, up to this much at once: by what was received, never by what was announced.
const GROWTH: usize = 1024 * 1024;
/// The thread's buffer is not kept for what fills less of it than this: a frame that shares it would keep alive much more
/// than was sent.
const WORTH: usize = scratch::READ / 8 * 7;
/// Up to this size raw bytes are copied out rather than shared: cheaper, and they pin no read buffer.
const COPY: usize = 512;

/// What has been read and not yet decoded.
#[derive(Default)]
pub(super) struct Input {
    buf: BytesMut,
    /// Whether `buf` is the thread's buffer, to be given back before we wait.
    lent: bool,
}

impl Input {
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The bytes of memory it owns, of which the little that is carried over to the next read is not counted.
    #[inline]
    pub(super) fn owned(&self) -> usize {
        if self.lent || self.buf.capacity() <= CARRY { 0 } else { self.buf.capacity() }
    }

    pub(super) fn clear(&mut self) {
        self.buf.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    pub(super) fn buf(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Reads once. Ready with the number of bytes; 0 is the end of the stream.
    pub(super) fn poll_fill(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let read = ready!(poll_read_buf(Pin::new(connection), cx, &mut self.buf));
        // It may hold frames that are shared and not copied. They must not keep alive much more than was sent.
        self.settle();
        Poll::Ready(read)
    }

    fn make_room(&mut self) {
        if !self.lent && self.buf.len() <= CARRY {
            let mut buf = scratch::take_read();
            buf.extend_from_slice(&self.buf);
            self.buf = buf;
            self.lent = true;
        } else if self.buf.capacity() - self.buf.len() < ROOM {
            self.buf.reserve(self.buf.len().clamp(ROOM, GROWTH));
        }
    }

    /// Gives the thread's buffer back; what is left of the burst moves to a buffer sized to it, unless it fills a good
    /// part of this one.
    /// Returns whether anything has changed.
    #[inline]
    pub(super) fn settle(&mut self) -> bool {
        // A session settles after each frame; from the second on there is nothing to do.
        let changes = self.lent || self.buf.is_empty();
        if changes {
            self.give_back();
        }
        changes
    }

    fn give_back(&mut self) {
        let is_lent = std::mem::take(&mut self.lent);
        if is_lent && self.buf.len() > WORTH {
            return;
        }
        let own = if self.buf.is_empty() { BytesMut::new() } else { BytesMut::from(&self.buf[..]) };
        let buf = std::mem::replace(&mut self.buf, own);
        if is_lent {
            scratch::give_read(buf);
        }
    }

    /// A frame of `taken` bytes was taken. What is left behind it moves to a buffer of its own, unless it is longer: small
    /// frames in it must not keep alive the large one's. So no more is copied than was taken.
    pub(super) fn leave(&mut self, taken: usize) {
        if !self.lent && self.buf.len() <= CARRY.max(taken) {
            self.buf = BytesMut::from(&self.buf[..]);
        }
    }

    /// Takes the first `n` bytes, which must be there.
    pub(super) fn take(&mut self, n: usize) -> Bytes {
        // A slice keeps the whole buffer alive; a small part of a large one is better copied.
        if n <= COPY || n < self.buf.capacity() / 4 {
            let bytes = Bytes::copy_from_slice(&self.buf[..n]);
            self.buf.advance(n);
            return bytes;
        }
        self.buf.split_to(n).freeze()
    }

    /// Drops up to `n` bytes; returns how many.
    pub(super) fn skip(&mut self, n: u64) -> u64 {
        let n = usize::try_from(n).unwrap_or(usize::MAX).min(self.buf.len());
        self.buf.advance(n);
        n as u64
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.lent {
            scratch::give_read(std::mem::take(&mut self.buf));
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("len", &self.len()).finish_non_exhaustive()
    }
}
