//! Large frames of answers, which are written from where they are and not copied into the buffer.

use std::any::Any;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_codecs::CodecError;
use ropewalk_codecs::around;

use super::output::OutputBuffer;

/// A frame from this size on is not copied. Below it a copy costs less than one more part of a
/// write.
pub(super) const LARGE: usize = 16 * 1024;
/// The most parts of one write. The kernel accepts 1024, but more than these are seldom below the
/// high-water mark.
const PARTS: usize = 16;

/// The large frames that are queued, each with its place among the bytes of the buffer.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// Each frame, without the bytes that are already written, and how many bytes of the buffer
    /// come between the frame before it, or the start, and this one.
    frames: VecDeque<(usize, Bytes)>,
    /// The sum of these numbers.
    before: usize,
    /// The sum of the frames' bytes.
    len: usize,
}

impl Large {
    /// The bytes of the frames.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a frame after all others, `at` bytes into the buffer.
    pub(super) fn push(&mut self, at: usize, frame: Bytes) {
        self.frames.push_back((at - self.before, frame));
        self.before = at;
        self.len += self.frames.back().map_or(0, |(_, frame)| frame.len());
    }

    /// Splits the bytes to be written, those of `buf` and the frames between them, into parts for
    /// one write. Returns how many there are.
    pub(super) fn parts<'a>(
        &'a self,
        mut buf: &'a [u8],
        parts: &mut [IoSlice<'a>; PARTS],
    ) -> usize {
        let mut n = 0;
        let mut add = |bytes: &'a [u8]| {
            if let Some(part) = parts.get_mut(n).filter(|_| !bytes.is_empty()) {
                *part = IoSlice::new(bytes);
                n += 1;
            }
        };
        for (before, frame) in &self.frames {
            let (small, rest) = buf.split_at(*before);
            buf = rest;
            add(small);
            add(frame);
        }
        add(buf);
        n
    }

    /// The first part of the bytes to be written.
    pub(super) fn first<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        match self.frames.front() {
            Some((0, frame)) => frame,
            Some((before, _)) => &buf[..*before],
            None => buf,
        }
    }

    /// Drops the first `n` bytes to be written.
    pub(super) fn advance(&mut self, buf: &mut BytesMut, mut n: usize) {
        while n > 0
            && let Some((before, frame)) = self.frames.front_mut()
        {
            let small = n.min(*before);
            buf.advance(small);
            *before -= small;
            self.before -= small;
            let large = (n - small).min(frame.len());
            frame.advance(large);
            self.len -= large;
            n -= small + large;
            if frame.is_empty() {
                self.frames.pop_front();
            }
        }
        buf.advance(n);
    }
}

/// Empty parts for a write.
pub(super) fn no_parts<'a>() -> [IoSlice<'a>; PARTS] {
    [IoSlice::new(&[]); PARTS]
}

/// Encodes a frame that is a large [`Bytes`] with a codec that can leave it out of the buffer.
/// Returns the frame and its place in the buffer; `None` if it has to be encoded as any other.
///
/// The types are known where this is compiled for them, so a frame of another type costs no
/// comparison.
#[inline(always)]
pub(super) fn encode<C: 'static, T: 'static>(
    codec: &mut C,
    frame: &T,
    output: &mut OutputBuffer,
) -> Option<Result<(), CodecError>> {
    let frame = (frame as &dyn Any).downcast_ref::<Bytes>().filter(|frame| frame.len() >= LARGE)?;
    let gap = around::encode(codec, frame, output.buf())?;
    Some(gap.map(|gap| output.push_large(gap.at, frame.slice(gap.copied..))))
}
