//! What becomes of queued bytes before a wait: the thread's buffer is returned.

use bytes::BytesMut;

use super::OutputBuffer;
use crate::wire::scratch;

/// A buffer of up to this size is kept until all of it is written.
const SMALL: usize = 16 * 1024;

impl OutputBuffer {
    /// Moves the bytes that the kernel did not accept to a buffer of their own size; a buffer that
    /// they fill well is kept. When this is repeated as the peer accepts its answers, it copies no
    /// more bytes than were written.
    pub(in crate::wire) fn keep(&mut self) {
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
            scratch::give_write(buf, std::mem::take(&mut self.shifted));
        }
    }

    /// Moves the queued bytes out of the thread's buffer, to one with room for `more`, so that it
    /// needn't grow at once; a buffer that is filled well is kept.
    #[inline]
    pub(in crate::wire) fn keep_growing(&mut self, more: usize) {
        if std::mem::take(&mut self.lent) {
            self.keep_lent(more);
        }
    }

    fn keep_lent(&mut self, more: usize) {
        if self.buf.len() >= self.buf.capacity() / 2 {
            return;
        }
        // An encoder may ask for a little more than it needs.
        let room = (more + more / 16).min(SMALL);
        let mut own = BytesMut::with_capacity(self.buf.len() + room);
        own.extend_from_slice(&self.buf);
        let buf = std::mem::replace(&mut self.buf, own);
        scratch::give_write(buf, std::mem::take(&mut self.shifted));
        self.size = 0;
    }
}
