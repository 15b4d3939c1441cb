//! Bytes on their way in.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

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
/// Up to this much is copied out of the thread's buffer. For more than that it is cut to size, and the thread gets another one.
const COPY_READ: usize = 16 * 1024;
/// Up to this size raw bytes are copied out rather than shared: cheaper, and they pin no read buffer.
const COPY: usize = 512;

/// What has been read and not yet decoded.
#[derive(Default)]
pub(super) struct Input {
    /// Of the size of what was read, as frames may share it.
    buf: BytesMut,
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
        if self.buf.capacity() <= CARRY { 0 } else { self.buf.capacity() }
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
        let mut connection = Pin::new(connection);
        if self.buf.len() > CARRY {
            if self.buf.capacity() - self.buf.len() < ROOM {
                self.buf.reserve(self.buf.len().clamp(ROOM, GROWTH));
            }
            return poll_read_buf(connection, cx, &mut self.buf);
        }
        let mut scratch = scratch::take_read();
        scratch.extend_from_slice(&self.buf);
        let read = poll_read_buf(connection.as_mut(), cx, &mut scratch);
        if let Poll::Ready(Ok(1..)) = read {
            self.buf = if scratch.len() <= COPY_READ { BytesMut::from(&scratch[..]) } else { cut(&mut scratch) };
        }
        scratch::give_read(scratch);
        read
    }

    /// Lets go of a buffer with nothing left in it. Returns whether there was one.
    #[inline]
    pub(super) fn settle(&mut self) -> bool {
        let changes = self.buf.is_empty() && self.buf.capacity() > 0;
        if changes {
            self.buf = BytesMut::new();
        }
        changes
    }

    /// A frame of `taken` bytes was taken. What is left behind it moves to a buffer of its own, unless it is longer: small
    /// frames in it must not keep alive the large one's. So no more is copied than was taken.
    pub(super) fn leave(&mut self, taken: usize) {
        if self.buf.len() <= CARRY.max(taken) {
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

/// What was read, in the memory it was read to, of which the rest is given back.
fn cut(read: &mut Vec<u8>) -> BytesMut {
    let mut read = std::mem::take(read);
    read.shrink_to_fit();
    // Neither way are the bytes moved.
    Bytes::from(read).into()
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("len", &self.len()).finish_non_exhaustive()
    }
}
