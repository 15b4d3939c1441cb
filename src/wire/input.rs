//! Received bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_middleware::Connection;
use tokio_util::io::poll_read_buf;

use super::scratch;

/// Up to this much of a frame is carried over into the thread's buffer at the next read; a longer
/// part stays where it is and grows in place, so that a frame that arrives in small pieces is not
/// copied for every piece.
const CARRY: usize = 1024;
/// The minimum room for a read.
const ROOM: usize = 4 * 1024;
/// A buffer grows by its length, by at most this much at once: growth depends on received bytes,
/// never on announced ones.
const GROWTH: usize = 1024 * 1024;
/// A buffer that the thread has kept is used for a frame only if at most this many times the
/// received bytes are missing: peers that only announce large frames must not hold all of these
/// buffers, or new ones would have to be made.
const REUSED: usize = 3;
/// Up to this much is copied out of the thread's buffer. If there is more, the buffer itself is cut
/// to size and kept, and the thread gets another one.
const COPY_READ: usize = 16 * 1024;
/// Up to this size raw bytes are copied out, not shared: that is cheaper, and they keep no read
/// buffer alive.
const COPY: usize = 512;

/// The bytes that were read and are not decoded yet.
#[derive(Default)]
pub(super) struct InputBuffer {
    /// Sized to the bytes that were read, because frames may share it.
    buf: BytesMut,
    /// The announced length of the frame that `buf` begins with, if it fits; 0 if it is not known.
    whole: u32,
    /// Bytes were read into `buf` since it was freed. An empty buffer has no capacity left if its
    /// bytes were taken from its front, and owns memory all the same.
    filled: bool,
}

impl InputBuffer {
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The bytes of memory it owns. The small part that is carried over to the next read is not
    /// counted.
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

    /// Sets the announced length of the frame that has begun; 0 if it is not known.
    #[inline]
    pub(super) fn expect(&mut self, whole: usize) {
        self.whole = u32::try_from(whole).unwrap_or(0);
    }

    /// Makes room for a read: for as many bytes as have arrived, but for no more than the frame
    /// needs if its length is known, or the last few bytes of it would need a buffer twice the
    /// size.
    fn make_room(&mut self) {
        let len = self.buf.len();
        let rest = (self.whole as usize).checked_sub(len).filter(|rest| *rest > 0);
        if self.buf.capacity() - len >= rest.unwrap_or(ROOM).min(ROOM) {
            return;
        }
        let Some(rest) = rest else { return self.buf.reserve(len.clamp(ROOM, GROWTH)) };
        if rest <= REUSED * len
            && let Some(mut buf) = scratch::take_large(self.whole as usize)
        {
            buf.extend_from_slice(&self.buf);
            self.buf = buf;
            return;
        }
        let mut buf = Vec::from(std::mem::take(&mut self.buf));
        // A little more if that is all of the frame: its last bytes need no growth of their own.
        buf.reserve_exact(if rest <= len + len / 8 { rest } else { len });
        self.buf = Bytes::from(buf).into();
    }

    /// Reads once. Ready with the number of bytes; 0 is the end of the stream.
    pub(super) fn poll_fill(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut connection = Pin::new(connection);
        if self.buf.len() > CARRY {
            self.filled = true;
            self.make_room();
            return poll_read_buf(connection, cx, &mut self.buf);
        }
        let mut scratch = scratch::take_read();
        scratch.extend_from_slice(&self.buf);
        let read = poll_read_buf(connection.as_mut(), cx, &mut scratch);
        if let Poll::Ready(Ok(1..)) = read {
            self.filled = true;
            self.buf = if scratch.len() <= COPY_READ {
                BytesMut::from(&scratch[..])
            } else {
                cut(&mut scratch)
            };
        }
        scratch::give_read(scratch);
        read
    }

    /// Frees an empty buffer. Returns whether there was one.
    #[inline]
    pub(super) fn settle(&mut self) -> bool {
        let changes = self.buf.is_empty() && (self.filled || self.buf.capacity() > 0);
        if changes {
            self.buf = BytesMut::new();
            self.filled = false;
        }
        changes
    }

    /// Called after a frame of `taken` bytes was taken. The bytes after it move to a buffer of
    /// their own, unless they are longer than the frame: small frames must not keep the memory of
    /// the large one alive. No more bytes are copied than were taken.
    pub(super) fn leave(&mut self, taken: usize) {
        if self.buf.len() <= CARRY.max(taken) {
            let rest = BytesMut::from(&self.buf[..]);
            scratch::give_large(std::mem::replace(&mut self.buf, rest), taken);
        }
    }

    /// Takes the first `n` bytes, which must be there.
    pub(super) fn take(&mut self, n: usize) -> Bytes {
        // A slice keeps the whole buffer alive, so a small part of a large one is copied.
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

/// The bytes that were read, in the memory they were read to; the rest of that memory is freed.
fn cut(read: &mut Vec<u8>) -> BytesMut {
    let mut read = std::mem::take(read);
    read.shrink_to_fit();
    // In both cases the bytes are not moved.
    Bytes::from(read).into()
}

impl fmt::Debug for InputBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}
