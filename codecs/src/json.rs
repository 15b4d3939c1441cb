//! Frames that are JSON, on any codec (feature `json`).

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

use crate::converted::{Converted, is_around_a_codec, makes_a_type};
use crate::error::{BoxError, CodecError};

/// Frames of type `T`, read from the JSON in the frames of the codec `C`: made by
/// [`CodecExt::json`](crate::CodecExt::json). It encodes any type that serde can serialize.
///
/// Floats survive a round trip exactly. JSON has no NaN and no infinities: they are written as
/// `null`, which can't be read as a float.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::{CodecExt, Json, Lines};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut points: Json<Lines, (i32, i32)> = Lines::lf().json();
/// let mut buffer = BytesMut::from("[1,2]\n[1]\n[3,4]\n");
/// assert_eq!(points.decode(&mut buffer)?, Some((1, 2)));
/// assert!(!points.decode(&mut buffer).unwrap_err().is_fatal());
/// assert_eq!(points.decode(&mut buffer)?, Some((3, 4)));
/// points.encode((5, 6), &mut buffer)?;
/// assert_eq!(buffer, "[5,6]\n");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of `C`; and for a frame that is not the JSON of a `T`, a recoverable
/// [`ErrorKind::Parse`](crate::ErrorKind::Parse) with an offset as in [`Parsed`](crate::Parsed). A
/// value that can't be serialized is an error too, and nothing of it is written.
pub struct Json<C, T> {
    inner: Converted<C>,
    // It makes values of T and does not hold one.
    made: PhantomData<fn() -> T>,
}

is_around_a_codec!(Json);
makes_a_type!(Json);

fn read<T: DeserializeOwned>(frame: impl AsRef<[u8]>) -> serde_json::Result<T> {
    serde_json::from_slice(frame.as_ref())
}

impl<C, T> Decoder for Json<C, T>
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

impl<C, T, I> Encoder<I> for Json<C, T>
where
    C: Encoder<Bytes>,
    <C as Encoder<Bytes>>::Error: Into<BoxError>,
    I: Serialize,
{
    type Error = CodecError;

    fn encode(&mut self, item: I, dst: &mut BytesMut) -> Result<(), CodecError> {
        let bytes = serde_json::to_vec(&item).map_err(CodecError::parse)?;
        self.inner.encode(Bytes::from(bytes), dst)
    }
}
