//! How a decoder of this crate tells its caller that the bytes it leaves are within a limit of its own, and how long the
//! frame will be of which they are the first.
//!
//! A server bounds what a decoder may leave in the buffer, but not a decoder that has a limit itself: its author chose
//! that one. The `Decoder` trait has no place to say so, and a decoder may be inside any number of others, some of them
//! not ours. So it says so on the side: when it finds no frame, it notes which bytes it has left, and the caller, which
//! gets `None` on the same thread, compares them with those in its buffer.

use std::cell::Cell;

thread_local! {
    static LEFT: Cell<Left> = const { Cell::new(Left { addr: 0, len: 0, whole: 0 }) };
}

/// The bytes that were left last.
#[derive(Clone, Copy)]
struct Left {
    addr: usize,
    len: usize,
    whole: usize,
}

/// These bytes are left in the buffer, and are no more than the decoder's own limit allows. `whole` is the length of the
/// frame with all that is around it, within the limit as well; 0 if it is not known.
#[cold]
pub(crate) fn note(left: &[u8], whole: usize) {
    LEFT.set(Left { addr: left.as_ptr().addr(), len: left.len(), whole });
}

/// The length of the frame that the decoder which has just left these bytes waits for: 0 if that is not known, and `None`
/// if the decoder has no limit of its own. The peer has announced it and may never send it.
pub fn holds_for(left: &[u8]) -> Option<usize> {
    let Left { addr, len, whole } = LEFT.get();
    ((addr, len) == (left.as_ptr().addr(), left.len())).then_some(whole)
}
