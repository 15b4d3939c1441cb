//! The memory of a connection's buffers, and the wait for memory.

use std::task::{Context, Poll};

use super::Wire;

impl Wire {
    /// Frees the buffer of a burst that is used up. For sessions, which may wait for something else
    /// before the next frame.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if self.input.settle() {
            self.count_memory();
        }
    }

    /// The same while a frame is held. It is passed through, so that it is stored only when it is
    /// the last one of a burst, and not before each call that might panic.
    #[inline]
    pub(crate) fn settle_behind<T>(&mut self, frame: T) -> T {
        if self.input.is_empty() { self.settle_behind_last(frame) } else { frame }
    }

    #[inline(never)]
    fn settle_behind_last<T>(&mut self, frame: T) -> T {
        self.settle();
        frame
    }

    /// The same before a wait; it also counts the queued answers.
    pub(super) fn settle_all(&mut self) {
        self.input.settle();
        self.count_memory();
    }

    /// Counts the memory of the buffers, if it has changed.
    #[inline]
    pub(super) fn count_memory(&mut self) {
        let owned = self.input.owned() + self.output.owned();
        self.connection.set_buffered(owned);
    }

    /// Counts a buffer of answers that has grown, because a session may wait for something else
    /// before it is written.
    #[inline]
    pub(crate) fn count_answers(&mut self) {
        if self.output.may_have_grown() {
            self.count_grown();
        }
    }

    #[cold]
    fn count_grown(&mut self) {
        if self.output.has_grown() {
            self.count_memory();
        }
    }

    /// Ready when there is memory to read. If it is pending, the caller returns pending as well:
    /// all buffers that can be are freed, and the task is woken when there is memory.
    #[inline]
    pub(super) fn poll_memory(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.connection.may_read() { Poll::Ready(()) } else { self.wait_for_memory(cx) }
    }

    #[cold]
    fn wait_for_memory(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Freeing and counting the buffers may make enough room.
        self.settle_all();
        self.closing.watch(cx);
        if self.connection.may_read() {
            return Poll::Ready(());
        }
        // The peer is not late while the wire does not read.
        self.wait.pause(self.connection.as_ref().opened());
        self.set_waiting(false);
        self.rest()
    }
}
