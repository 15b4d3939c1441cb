//! Before a wait: empty buffers go, and it is noted when bytes moved and what is waited for.

use std::task::Poll;

use super::Wire;

impl Wire {
    /// Nothing to do until somebody wakes us: lets go of an empty buffer and waits.
    pub(super) fn rest<T>(&mut self) -> Poll<T> {
        self.turn = 0;
        self.settle_all();
        self.note_moved();
        Poll::Pending
    }

    /// Notes when bytes have moved, before a wait: one look at the clock for all that moved since the last one.
    #[inline]
    pub(crate) fn note_moved(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.stats().note_moved();
        }
    }

    /// Whether the peer is waited for, with nothing pending and nothing unwritten.
    #[inline]
    pub(super) fn set_waiting(&mut self, waiting: bool) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.stats().set_waiting(waiting);
        }
    }
}
