//! Bytes as they arrive.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::CodecError;
use crate::frame::{CHUNK, take_frame};

/// Bytes as they arrive: chunks of 1 to 65 536 bytes, cut where the reads were. An echo server uses
/// it.
///
/// Encoding appends the bytes. Neither direction ever fails.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::RawBytes;
/// use tokio_util::codec::Decoder;
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut buffer = BytesMut::from("half a li");
/// assert_eq!(RawBytes.decode(&mut buffer)?.unwrap(), "half a li");
/// assert_eq!(RawBytes.decode(&mut buffer)?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct RawBytes;

impl Decoder for RawBytes {
    type Item = Bytes;
    type Error = CodecError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let n = src.len().min(CHUNK);
        Ok((n > 0).then(|| take_frame(src, n)))
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for RawBytes {
    type Error = CodecError;

    fn encode(&mut self, bytes: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(bytes.as_ref());
        Ok(())
    }
}
