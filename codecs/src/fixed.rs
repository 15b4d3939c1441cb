//! Frames of one size.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{CodecError, ErrorKind};
use crate::frame::Progress;

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

impl Decoder for Fixed {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if self.progress.is_over(src) || src.len() < self.size {
            return Ok(None);
        }
        Ok(Some(self.progress.take(src, self.size, 0)))
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
