//! What the buffers of a connection take, and the wait for memory.

use std::task::{Context, Poll};

use super::Wire;

impl Wire {
    /// Lets go of the buffer of a burst that is used up. For sessions, whose author may wait for something else before the
    /// next frame.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if self.input.settle() {
            self.count_memory();
        }
    }

    /// The same before a wait, with the answers that wait counted too.
    pub(super) fn settle_all(&mut self) {
        self.input.settle();
        self.count_memory();
    }

    /// Counts what the buffers take, if that has changed.
    #[inline]
    pub(super) fn count_memory(&mut self) {
        let owned = self.input.owned() + self.output.owned();
        self.connection.set_buffered(owned);
    }

    /// Counts a buffer of answers that has grown: its author may wait for something else before it is written.
    #[inline]
    pub(crate) fn count_answers(&mut self) {
        if self.output.has_grown() {
            self.count_memory();
        }
    }

    /// Ready when there is memory to read. Pending, it was the last thing to ask for: all is given back that can be, and
    /// the connection is woken when there is.
    #[inline]
    pub(super) fn poll_memory(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.connection.may_read() { Poll::Ready(()) } else { self.wait_for_memory(cx) }
    }

    #[cold]
    fn wait_for_memory(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What has just been given back, and counted, may make the difference.
        self.settle_all();
        self.closing.watch(cx);
        if self.connection.may_read() {
            return Poll::Ready(());
        }
        // The peer is not late while we do not read.
        self.wait.pause();
        self.set_waiting(false);
        self.rest()
    }
}
