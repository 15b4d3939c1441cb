//! Frames that are postcard, on any codec (feature `postcard`).

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

use crate::converted::{Converted, is_around_a_codec, makes_a_type};
use crate::error::{BoxError, CodecError};

/// Frames of type `T`, read from the postcard in the frames of the codec `C`: made by
/// [`CodecExt::postcard`](crate::CodecExt::postcard). It encodes any type that serde can serialize.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::{CodecExt, LengthPrefixed, Postcard};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut points: Postcard<LengthPrefixed, (u8, u8)> = LengthPrefixed::u16().postcard();
/// let mut buffer = BytesMut::from(&b"\0\x02\x07\x08\0\x03\x07\x08\x09"[..]);
/// assert_eq!(points.decode(&mut buffer)?, Some((7, 8)));
/// // Bytes after the value are an error.
/// assert!(!points.decode(&mut buffer).unwrap_err().is_fatal());
/// points.encode((5u8, 6u8), &mut buffer)?;
/// assert_eq!(&buffer[..], b"\0\x02\x05\x06");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of `C`; and for a frame that is not the postcard form of a `T`, a recoverable
/// [`ErrorKind::Parse`](crate::ErrorKind::Parse) with an offset as in [`Parsed`](crate::Parsed). A
/// value that can't be serialized is an error too, and nothing of it is written.
pub struct Postcard<C, T> {
    inner: Converted<C>,
    // It makes values of T and does not hold one.
    made: PhantomData<fn() -> T>,
}

is_around_a_codec!(Postcard);
makes_a_type!(Postcard);

fn read<T: DeserializeOwned>(frame: impl AsRef<[u8]>) -> Result<T, BoxError> {
    match postcard::take_from_bytes(frame.as_ref())? {
        (value, []) => Ok(value),
        (_, rest) => Err(format!("{} bytes after the value", rest.len()).into()),
    }
}

impl<C, T> Decoder for Postcard<C, T>
where
    C: Decoder<Item: AsRef<[u8]>, Error: Into<BoxError>>,
    T: DeserializeOwned,
{
    type Item = T;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        self.inner.decode(src, read)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        self.inner.decode_eof(src, read)
    }
}

impl<C, T, I> Encoder<I> for Postcard<C, T>
where
    C: Encoder<Bytes>,
    <C as Encoder<Bytes>>::Error: Into<BoxError>,
    I: Serialize,
{
    type Error = CodecError;

    fn encode(&mut self, item: I, dst: &mut BytesMut) -> Result<(), CodecError> {
        let bytes = postcard::to_stdvec(&item).map_err(CodecError::parse)?;
        self.inner.encode(Bytes::from(bytes), dst)
    }
}
