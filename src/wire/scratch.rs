//! One read and one write buffer a thread, lent to whichever connection is moving bytes.
//!
//! An idle connection owns no buffers: it borrows these while it runs and gives them back before it waits.

use std::cell::Cell;

use bytes::BytesMut;

/// What one read takes at most: 64 KiB.
pub(super) const READ: usize = 64 * 1024;
/// What is set aside for a burst of answers: 16 KiB. It grows with the burst.
const WRITE: usize = 16 * 1024;
/// A buffer that has grown past this is not kept for the next connection.
pub(super) const KEEP: usize = 256 * 1024;

thread_local! {
    static READ_BUF: Cell<BytesMut> = Cell::new(BytesMut::new());
    static WRITE_BUF: Cell<BytesMut> = Cell::new(BytesMut::new());
}

pub(super) fn take_read() -> BytesMut {
    let mut buf = READ_BUF.take();
    // Large frames are slices of this allocation. While any of them lives this allocates anew; otherwise it reclaims.
    buf.reserve(READ);
    buf
}

pub(super) fn give_read(mut buf: BytesMut) {
    buf.clear();
    if buf.capacity() <= KEEP {
        READ_BUF.set(buf);
    }
}

pub(super) fn take_write() -> BytesMut {
    let mut buf = WRITE_BUF.take();
    buf.reserve(WRITE);
    buf
}

pub(super) fn give_write(mut buf: BytesMut) {
    buf.clear();
    if buf.capacity() <= KEEP {
        WRITE_BUF.set(buf);
    }
}
