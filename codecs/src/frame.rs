//! What every decoder here shares: how a frame leaves the buffer, and how far into the stream the decoder is.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{CodecError, ErrorKind};

/// Frames up to this size are copied out of the read buffer.
///
/// Sharing the buffer costs two atomic read-modify-writes a frame, which is more than allocating and copying a short one;
/// the two break even near 512 bytes. A copied frame also does not keep a whole read buffer alive while the application
/// holds it.
const COPY_UP_TO: usize = 512;

/// The most bytes delivered at once where the wire sets no boundary.
pub(crate) const CHUNK: usize = 64 * 1024;

/// No buffer can be longer than `isize::MAX`. Limits are kept below it with room for any prefix and header, so that
/// adding those to a length within its limit cannot wrap.
const LARGEST_LIMIT: usize = isize::MAX as usize / 2;

/// The limit as it is kept: what was asked for, or the largest there can be.
pub(crate) fn limit(max: usize) -> usize {
    max.min(LARGEST_LIMIT)
}

/// The next `n` bytes of `src` as a frame; the `trailer` bytes after it are dropped.
#[inline]
pub(crate) fn take_frame(src: &mut BytesMut, n: usize, trailer: usize) -> Bytes {
    if n > COPY_UP_TO {
        let frame = src.split_to(n).freeze();
        src.advance(trailer);
        return frame;
    }
    let frame = if n == 0 { Bytes::new() } else { Bytes::copy_from_slice(&src[..n]) };
    src.advance(n + trailer);
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
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether the decoder is fused; if so, what it was handed is discarded, so that a caller who goes on reading holds
    /// no more than one read.
    #[inline]
    pub(crate) fn is_over(&mut self, src: &mut BytesMut) -> bool {
        if self.fused {
            self.skip(src, src.len());
        }
        self.fused
    }

    /// The next `n` bytes of `src` as a frame; the `trailer` bytes after it are dropped. All must be there.
    #[inline]
    pub(crate) fn take(&mut self, src: &mut BytesMut, n: usize, trailer: usize) -> Bytes {
        self.consumed += (n + trailer) as u64;
        take_frame(src, n, trailer)
    }

    /// Drops the next `n` bytes of `src`, which must be there.
    #[inline]
    pub(crate) fn skip(&mut self, src: &mut BytesMut, n: usize) {
        self.consumed += n as u64;
        src.advance(n);
    }

    /// Counts bytes that another decoder took from the buffer.
    pub(crate) fn count(&mut self, n: usize) {
        self.consumed += n as u64;
    }

    /// Ends the decoder with an error `index` bytes into `src`.
    pub(crate) fn fail(&mut self, src: &mut BytesMut, kind: ErrorKind, index: usize) -> CodecError {
        let error = CodecError::new(kind).at(self.consumed + index as u64);
        self.fuse(src);
        error
    }

    /// Ends the decoder: the stream did so, `have` bytes into a frame of which the last are in `src`.
    pub(crate) fn truncated(&mut self, src: &mut BytesMut, have: u64) -> CodecError {
        let end = src.len();
        self.fail(src, ErrorKind::Truncated { have }, end)
    }

    /// The end of the stream for a decoder that leaves a partial frame in `src`: a clean one, or a truncated frame.
    pub(crate) fn end<T>(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        if src.is_empty() {
            return Ok(None);
        }
        let have = src.len() as u64;
        Err(self.truncated(src, have))
    }

    /// Ends the decoder.
    pub(crate) fn fuse(&mut self, src: &mut BytesMut) {
        self.fused = true;
        self.skip(src, src.len());
    }
}
