//! The steps before a wait: empty buffers are freed, and the time of the last activity and the
//! subject of the wait are recorded.

use std::task::Poll;

use super::Wire;

impl Wire {
    /// Frees an empty buffer and waits until the task is woken.
    pub(super) fn rest<T>(&mut self) -> Poll<T> {
        self.turn = 0;
        self.note_writing();
        self.settle_all();
        self.note_moved();
        Poll::Pending
    }

    /// Records, before a wait, that bytes have moved: one reading of the clock for all that moved
    /// since the last wait.
    #[inline]
    pub(crate) fn note_moved(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.stats().note_moved();
        }
    }

    /// Records, before a wait, whether bytes wait to be written.
    #[inline]
    fn note_writing(&mut self) {
        let writing = !self.output.is_flushed();
        if self.writing != writing {
            self.writing = writing;
            self.stats().set_writing(writing);
        }
    }

    /// Whether the wire waits for the peer, without pending calls and unwritten bytes.
    #[inline]
    pub(super) fn set_waiting(&mut self, waiting: bool) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.stats().set_waiting(waiting);
        }
    }
}
