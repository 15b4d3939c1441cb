//! One read buffer and one write buffer for each thread, lent to the connection that is moving
//! bytes.
//!
//! An idle connection owns no buffers: it borrows these while it runs and returns them before it
//! waits. The buffers of some large frames are kept too, because new memory costs the kernel more
//! than copying as many bytes would.

use std::cell::Cell;
use std::ops::RangeInclusive;

use bytes::BytesMut;

/// The most bytes of one read: 64 KiB.
pub(super) const READ: usize = 64 * 1024;
/// The initial size of the buffer for a burst of answers: 16 KiB. It grows with the burst.
const WRITE: usize = 16 * 1024;
/// A buffer that has grown past this is not kept for the next connection.
pub(super) const KEEP: usize = 256 * 1024;

/// The buffers of frames of this size, counted with their delimiters, are used again.
const LARGE: RangeInclusive<usize> = 128 * 1024..=1024 * 1024 + 64;
/// The most of them that a thread keeps: as many frames are often read and written at the same
/// time.
const LARGE_KEPT: usize = 4;

thread_local! {
    static READ_BUF: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE_BUF: Cell<BytesMut> = Cell::new(BytesMut::new());
    static LARGE_BUFS: Cell<Vec<BytesMut>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer. It is lent for one read and no longer.
pub(super) fn take_read() -> Vec<u8> {
    let mut buf = READ_BUF.take();
    buf.reserve_exact(READ);
    buf
}

pub(super) fn give_read(mut buf: Vec<u8>) {
    buf.clear();
    READ_BUF.set(buf);
}

pub(super) fn take_write() -> BytesMut {
    let mut buf = WRITE_BUF.take();
    buf.reserve(WRITE);
    buf
}

/// `shifted`: bytes were taken from its front.
pub(super) fn give_write(mut buf: BytesMut, shifted: bool) {
    buf.clear();
    if shifted {
        // The buffer starts after the bytes that were written. Reset to its beginning, or the next
        // burst would be moved there.
        let _ = buf.try_reclaim(buf.capacity() + 1);
    }
    if buf.capacity() <= KEEP {
        WRITE_BUF.set(buf);
    }
}

/// The empty buffer of a large frame with room for `len` bytes, and for less than twice as many.
/// `None` if the thread has no such buffer, or the frame that was in it still exists.
pub(super) fn take_large(len: usize) -> Option<BytesMut> {
    if !LARGE.contains(&len) {
        return None;
    }
    let mut bufs = LARGE_BUFS.take();
    // The oldest: its frame is the most likely to be gone.
    let buf = (!bufs.is_empty()).then(|| bufs.remove(0));
    LARGE_BUFS.set(bufs);
    let mut buf = buf?;
    buf.clear();
    (buf.try_reclaim(len) && buf.capacity() < 2 * len).then_some(buf)
}

/// Keeps the buffer from which a frame of `len` bytes was taken.
pub(super) fn give_large(buf: BytesMut, len: usize) {
    if !LARGE.contains(&len) {
        return;
    }
    let mut bufs = LARGE_BUFS.take();
    if bufs.len() < LARGE_KEPT {
        bufs.push(buf);
    }
    LARGE_BUFS.set(bufs);
}
