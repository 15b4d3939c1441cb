//! Frames passed through a function.

use std::convert::Infallible;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::converted::{Converted, encodes_as_the_codec, is_around_a_codec};
use crate::error::{BoxError, CodecError};

/// The frames of a codec, passed through a function: made by
/// [`CodecExt::map`](crate::CodecExt::map).
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use ropewalk_codecs::{CodecExt, Netstring};
/// use tokio_util::codec::Decoder;
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut codec = Netstring::new().map(|frame: Bytes| frame.to_ascii_uppercase());
/// assert_eq!(codec.decode(&mut BytesMut::from("2:hi,"))?.unwrap(), b"HI");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of the codec, converted by [`CodecError::from_any`]. Encoding is the codec's.
#[derive(Clone)]
pub struct Map<C, F> {
    inner: Converted<C>,
    f: F,
}

/// The frames of a codec, passed through a function that may fail: made by
/// [`CodecExt::try_map`](crate::CodecExt::try_map).
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use ropewalk_codecs::{CodecExt, Lines};
/// use tokio_util::codec::Decoder;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let number = |line: Bytes| std::str::from_utf8(&line).unwrap_or_default().parse::<i32>();
/// let mut codec = Lines::lf().try_map(number);
/// let mut buffer = BytesMut::from("four\n5\n");
/// assert!(codec.decode(&mut buffer).is_err());
/// assert_eq!(codec.decode(&mut buffer)?, Some(5));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of the codec, converted by [`CodecError::from_any`]; and those of the function, as a
/// recoverable [`ErrorKind::Parse`](crate::ErrorKind::Parse) with an offset as in
/// [`Parsed`](crate::Parsed). Encoding is the codec's.
#[derive(Clone)]
pub struct TryMap<C, F> {
    inner: Converted<C>,
    f: F,
}

is_around_a_codec!(Map);
encodes_as_the_codec!(Map);
is_around_a_codec!(TryMap);
encodes_as_the_codec!(TryMap);

impl<C, F> Map<C, F> {
    pub(crate) fn new(codec: C, f: F) -> Self {
        Self { inner: Converted::new(codec), f }
    }
}

impl<C, F, U> Decoder for Map<C, F>
where
    C: Decoder<Error: Into<BoxError>>,
    F: FnMut(C::Item) -> U,
{
    type Item = U;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        self.inner.decode(src, |frame| Ok::<_, Infallible>((self.f)(frame)))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        self.inner.decode_eof(src, |frame| Ok::<_, Infallible>((self.f)(frame)))
    }
}

impl<C, F> TryMap<C, F> {
    pub(crate) fn new(codec: C, f: F) -> Self {
        Self { inner: Converted::new(codec), f }
    }
}

impl<C, F, U, E> Decoder for TryMap<C, F>
where
    C: Decoder<Error: Into<BoxError>>,
    F: FnMut(C::Item) -> Result<U, E>,
    E: Into<BoxError>,
{
    type Item = U;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        self.inner.decode(src, &mut self.f)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        self.inner.decode_eof(src, &mut self.f)
    }
}
