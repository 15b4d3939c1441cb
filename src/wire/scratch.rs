//! One read buffer and one write buffer for each thread, lent to the connection that is moving bytes.
//!
//! An idle connection owns no buffers: it borrows these while it runs and returns them before it waits.

use std::cell::Cell;

use bytes::BytesMut;

/// The most bytes of one read: 64 KiB.
pub(super) const READ: usize = 64 * 1024;
/// The initial size of the buffer for a burst of answers: 16 KiB. It grows with the burst.
const WRITE: usize = 16 * 1024;
/// A buffer that has grown past this is not kept for the next connection.
pub(super) const KEEP: usize = 256 * 1024;

thread_local! {
    static READ_BUF: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE_BUF: Cell<BytesMut> = Cell::new(BytesMut::new());
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

pub(super) fn give_write(mut buf: BytesMut) {
    buf.clear();
    // The buffer starts after the bytes that were written. Reset to its beginning, or the next burst would be moved
    // there.
    let _ = buf.try_reclaim(buf.capacity() + 1);
    if buf.capacity() <= KEEP {
        WRITE_BUF.set(buf);
    }
}
