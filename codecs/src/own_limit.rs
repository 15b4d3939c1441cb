//! How a decoder of this crate tells its caller that the bytes it leaves are within a limit of its own.
//!
//! A server bounds what a decoder may leave in the buffer, but not a decoder that has a limit itself: its author chose
//! that one. The `Decoder` trait has no place to say so, and a decoder may be inside any number of others, some of them
//! not ours. So it says so on the side: when it finds no frame, it notes which bytes it has left, and the caller, which
//! gets `None` on the same thread, compares them with those in its buffer.

use std::cell::Cell;

thread_local! {
    /// Where the bytes lie that were left last, and how many there are.
    static LEFT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// These bytes are left in the buffer, and are no more than the decoder's own limit allows.
#[cold]
pub(crate) fn note(left: &[u8]) {
    LEFT.set((left.as_ptr().addr(), left.len()));
}

/// Whether the decoder that has just left these bytes has a limit of its own.
pub fn holds_for(left: &[u8]) -> bool {
    LEFT.get() == (left.as_ptr().addr(), left.len())
}
