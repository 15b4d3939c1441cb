//! Frames of one size.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{CodecError, ErrorKind};
use crate::frame::{Progress, Span};
use crate::framing::Framing;
use crate::own_limit;

/// Frames of one size, with nothing between them.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::Fixed;
/// use tokio_util::codec::Decoder;
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut codec = Fixed::new(4);
/// let mut buffer = BytesMut::from("tickto");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "tick");
/// assert_eq!(codec.decode(&mut buffer)?, None);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If the stream ends within a frame: [`ErrorKind::Truncated`]. Encoding bytes of any other size is
/// [`ErrorKind::BadLength`].
#[derive(Debug, Clone)]
pub struct Fixed {
    size: usize,
    progress: Progress,
}

impl Fixed {
    /// Frames of `size` bytes.
    ///
    /// # Panics
    ///
    /// If that is 0.
    #[must_use]
    pub fn new(size: usize) -> Self {
        assert!(size > 0, "a frame of a fixed size has at least one byte");
        Self { size, progress: Progress::default() }
    }
}

impl Fixed {
    #[inline(always)]
    fn find(&mut self, src: &mut impl Buf) -> Option<Span> {
        let whole = !self.progress.is_over(src) && src.remaining() >= self.size;
        if !whole {
            own_limit::note(src.chunk(), self.size);
        }
        whole.then(|| Span::bare(self.size))
    }
}

impl Framing for Fixed {
    #[inline(always)]
    fn next_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        Ok(self.find(bytes).map(|span| self.progress.lend(bytes, span)))
    }

    fn last_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        match self.next_frame(bytes)? {
            Some(frame) => Ok(Some(frame)),
            None => self.progress.end(bytes),
        }
    }
}

impl Decoder for Fixed {
    type Item = Bytes;
    type Error = CodecError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(self.find(src).map(|span| self.progress.take(src, span)))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match self.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None => self.progress.end(src),
        }
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Fixed {
    type Error = CodecError;

    fn encode(&mut self, frame: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        let frame = frame.as_ref();
        if frame.len() != self.size {
            return Err(CodecError::new(ErrorKind::BadLength));
        }
        dst.extend_from_slice(frame);
        Ok(())
    }
}
