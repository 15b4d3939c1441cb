//! Frames that are JSON, on any codec (feature `json`).

use std::fmt;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{BoxError, CodecError};
use crate::tracked::Tracked;

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
    inner: Tracked<C>,
    // It makes values of T and does not hold one.
    made: PhantomData<fn() -> T>,
}

impl<C, T> Json<C, T> {
    pub(crate) fn new(codec: C) -> Self {
        Self { inner: Tracked::new(codec), made: PhantomData }
    }
}

impl<C: Clone, T> Clone for Json<C, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), made: PhantomData }
    }
}

impl<C: fmt::Debug, T> fmt::Debug for Json<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn read<I, T>(frame: Option<(u64, I)>) -> Result<Option<T>, CodecError>
where
    I: AsRef<[u8]>,
    T: DeserializeOwned,
{
    let Some((start, frame)) = frame else {
        return Ok(None);
    };
    serde_json::from_slice(frame.as_ref())
        .map(Some)
        .map_err(|error| CodecError::parse(error).at(start))
}

impl<C, T> Decoder for Json<C, T>
where
    C: Decoder<Item: AsRef<[u8]>, Error: Into<BoxError>>,
    T: DeserializeOwned,
{
    type Item = T;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        read(self.inner.decode(src)?)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        read(self.inner.decode_eof(src)?)
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
