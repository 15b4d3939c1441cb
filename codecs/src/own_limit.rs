//! How a decoder of this crate tells its caller that the bytes it leaves unread are within its own
//! limit, and how long the frame will be that begins with them.
//!
//! A server limits how many bytes a decoder may leave in the buffer, except for a decoder with a
//! limit of its own, which its author chose. The `Decoder` trait has no method for this, and a
//! decoder may be inside any number of others, some of them of other crates. So the decoder uses a
//! thread-local: when it finds no frame, it notes which bytes it has left, and the caller, which
//! gets `None` on the same thread, compares them with those in its buffer.

use std::cell::Cell;

thread_local! {
    static LEFT: Cell<Left> = const { Cell::new(Left { addr: 0, len: 0, whole: 0 }) };
}

/// The unread bytes of the last decoder that noted any.
#[derive(Clone, Copy)]
struct Left {
    addr: usize,
    len: usize,
    whole: usize,
}

/// Notes that `left` stays in the buffer and is within the decoder's own limit. `whole` is the
/// length of the frame including everything around it, within the limit as well; 0 if it is not
/// known.
#[cold]
pub(crate) fn note(left: &[u8], whole: usize) {
    LEFT.set(Left { addr: left.as_ptr().addr(), len: left.len(), whole });
}

/// The length of the frame that the decoder waits for, if it has just left these bytes unread: 0 if
/// the length is not known, `None` if the decoder has no limit of its own. The peer has announced
/// that length, but may never send the frame.
pub fn holds_for(left: &[u8]) -> Option<usize> {
    let Left { addr, len, whole } = LEFT.get();
    ((addr, len) == (left.as_ptr().addr(), left.len())).then_some(whole)
}
