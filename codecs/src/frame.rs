//! Shared by all decoders of this crate: how a frame is taken from the buffer, and how far into the
//! stream the decoder is.
//!
//! A codec finds frames in any contiguous [`Buf`]: in the [`BytesMut`] of a `Decoder`, from which a
//! frame is taken out, or in a plain slice, in which it stays.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{CodecError, ErrorKind};

/// Frames up to this size are copied out of the read buffer.
///
/// Sharing the buffer costs two atomic read-modify-writes a frame, which is more than allocating
/// and copying a short one; the two break even near 512 bytes. A copied frame also does not keep a
/// whole read buffer alive while the application holds it.
const COPY_UP_TO: usize = 512;

/// The most bytes delivered at once where the format has no boundaries.
pub(crate) const CHUNK: usize = 64 * 1024;

/// No buffer can be longer than `isize::MAX`. Limits are kept below it with room for any prefix and
/// header, so that adding those to a length within its limit cannot wrap.
const LARGEST_LIMIT: usize = isize::MAX as usize / 2;

/// The limit as it is stored: `max`, or the largest possible limit if that is less.
pub(crate) fn limit(max: usize) -> usize {
    max.min(LARGEST_LIMIT)
}

/// Where a frame lies at the start of a buffer. Its content is delivered, the bytes around it are
/// dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The bytes before the content: its length, for example.
    pub lead: usize,
    /// The bytes of the content.
    pub content: usize,
    /// The bytes after the content: a terminator, for example.
    pub trail: usize,
}

impl Span {
    /// A frame with nothing around it.
    #[inline(always)]
    #[must_use]
    pub fn bare(content: usize) -> Self {
        Self { lead: 0, content, trail: 0 }
    }

    #[inline(always)]
    fn end(self) -> usize {
        self.lead + self.content
    }

    #[inline(always)]
    pub(crate) fn total(self) -> usize {
        self.end() + self.trail
    }

    /// The same for a span of user code, whose sum may overflow.
    pub(crate) fn checked_total(self) -> Option<usize> {
        self.lead.checked_add(self.content)?.checked_add(self.trail)
    }
}

/// Takes a frame of `n` bytes from the start of the buffer in the cheaper way: up to 512 bytes are
/// copied, more are shared.
///
/// `src.split_to(n).freeze()` always shares the buffer. For a small frame that costs more than a
/// copy, and the frame then keeps the whole buffer alive.
///
/// ```
/// use bytes::{Buf, BytesMut};
/// use ropewalk_codecs::custom::take_frame;
///
/// let mut buffer = BytesMut::from("\x05hellorest");
/// buffer.advance(1);
/// assert_eq!(take_frame(&mut buffer, 5), "hello");
/// assert_eq!(buffer, "rest");
/// ```
///
/// # Panics
///
/// If there are fewer than `n` bytes.
#[inline(always)]
pub fn take_frame(src: &mut BytesMut, n: usize) -> Bytes {
    take_span(src, Span::bare(n))
}

/// Takes a frame, which must be there, out of `src`.
// Inlined into the caller's loop: a frame returned through calls is stored and loaded again at
// each, which costs more than finding it.
#[inline(always)]
pub(crate) fn take_span(src: &mut BytesMut, span: Span) -> Bytes {
    if span.content > COPY_UP_TO {
        return share_frame(src, span.lead, span.content, span.trail);
    }
    // Converting a box to `Bytes` takes fewer steps than a vector, which may have spare capacity.
    let frame = Box::<[u8]>::from(&src[span.lead..span.end()]);
    src.advance(span.total());
    Bytes::from(frame)
}

// Not inlined: the way of a long frame would only keep that of a short one from being inlined.
#[inline(never)]
fn share_frame(src: &mut BytesMut, lead: usize, content: usize, trail: usize) -> Bytes {
    src.advance(lead);
    let frame = src.split_to(content).freeze();
    src.advance(trail);
    frame
}

/// How far into the stream a decoder is, and whether a fatal error has ended it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    consumed: u64,
    fused: bool,
}

impl Progress {
    /// The offset of the first byte of `src`.
    #[inline(always)]
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether the decoder is fused; if so, `src` is discarded, so that a caller that continues
    /// reading holds no more than one read.
    #[inline(always)]
    pub(crate) fn is_over(&mut self, src: &mut impl Buf) -> bool {
        if self.fused {
            self.skip(src, src.remaining());
        }
        self.fused
    }

    /// Takes a frame, which must be there, out of `src`.
    #[inline(always)]
    pub(crate) fn take(&mut self, src: &mut BytesMut, span: Span) -> Bytes {
        self.consumed += span.total() as u64;
        take_span(src, span)
    }

    /// The same for a frame that stays where it is.
    #[inline(always)]
    pub(crate) fn lend<'a>(&mut self, src: &mut &'a [u8], span: Span) -> &'a [u8] {
        self.consumed += span.total() as u64;
        let (bytes, rest) = src.split_at(span.total());
        *src = rest;
        &bytes[span.lead..span.end()]
    }

    /// Drops the next `n` bytes of `src`, which must be there.
    #[inline(always)]
    pub(crate) fn skip(&mut self, src: &mut impl Buf, n: usize) {
        self.consumed += n as u64;
        src.advance(n);
    }

    /// Counts bytes that another decoder took from the buffer.
    pub(crate) fn count(&mut self, n: usize) {
        self.consumed += n as u64;
    }

    /// Ends the decoder with an error `index` bytes into `src`.
    #[cold]
    pub(crate) fn fail(&mut self, src: &mut impl Buf, kind: ErrorKind, index: usize) -> CodecError {
        let error = CodecError::new(kind).at(self.consumed + index as u64);
        self.fuse(src);
        error
    }

    /// Ends the decoder because the stream ended, `have` bytes into a frame; the last of those
    /// bytes are in `src`.
    pub(crate) fn truncated(&mut self, src: &mut impl Buf, have: u64) -> CodecError {
        let end = src.remaining();
        self.fail(src, ErrorKind::Truncated { have }, end)
    }

    /// The end of the stream for a decoder that leaves partial frames in `src`: an empty `src` is a
    /// clean end, another one a truncated frame.
    pub(crate) fn end<T>(&mut self, src: &mut impl Buf) -> Result<Option<T>, CodecError> {
        if !src.has_remaining() {
            return Ok(None);
        }
        let have = src.remaining() as u64;
        Err(self.truncated(src, have))
    }

    /// Ends the decoder.
    pub(crate) fn fuse(&mut self, src: &mut impl Buf) {
        self.fused = true;
        self.skip(src, src.remaining());
    }
}

/// Where a frame belongs that was encoded without its bytes: see [`around`](crate::around).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many bytes of the buffer come before the frame.
    pub at: usize,
    /// How many bytes of the frame were copied into the buffer already and must not be sent again:
    /// a header that stands before the length.
    pub copied: usize,
}
