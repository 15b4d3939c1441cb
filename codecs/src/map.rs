//! Frames passed through a function.

use std::fmt;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{BoxError, CodecError};
use crate::tracked::Tracked;

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
    inner: Tracked<C>,
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
    inner: Tracked<C>,
    f: F,
}

impl<C, F, U> Decoder for Map<C, F>
where
    C: Decoder<Error: Into<BoxError>>,
    F: FnMut(C::Item) -> U,
{
    type Item = U;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        Ok(self.inner.decode(src)?.map(|(_, frame)| (self.f)(frame)))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        Ok(self.inner.decode_eof(src)?.map(|(_, frame)| (self.f)(frame)))
    }
}

impl<C, F> TryMap<C, F> {
    fn apply<I, U, E>(&mut self, frame: Option<(u64, I)>) -> Result<Option<U>, CodecError>
    where
        F: FnMut(I) -> Result<U, E>,
        E: Into<BoxError>,
    {
        let Some((start, frame)) = frame else {
            return Ok(None);
        };
        (self.f)(frame).map(Some).map_err(|error| CodecError::parse(error).at(start))
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
        let frame = self.inner.decode(src)?;
        self.apply(frame)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<U>, CodecError> {
        let frame = self.inner.decode_eof(src)?;
        self.apply(frame)
    }
}

/// Code shared by `Map` and `TryMap`.
macro_rules! wraps_a_codec {
    ($name:ident) => {
        impl<C, F> $name<C, F> {
            pub(crate) fn new(codec: C, f: F) -> Self {
                Self { inner: Tracked::new(codec), f }
            }

            /// The codec underneath.
            pub fn get_ref(&self) -> &C {
                &self.inner.codec
            }

            /// The codec underneath.
            pub fn get_mut(&mut self) -> &mut C {
                &mut self.inner.codec
            }

            /// The codec underneath, by value.
            pub fn into_inner(self) -> C {
                self.inner.codec
            }
        }

        impl<C: fmt::Debug, F> fmt::Debug for $name<C, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("inner", &self.inner)
                    .finish_non_exhaustive()
            }
        }

        impl<C, F, I> Encoder<I> for $name<C, F>
        where
            C: Encoder<I>,
            <C as Encoder<I>>::Error: Into<BoxError>,
        {
            type Error = CodecError;

            fn encode(&mut self, item: I, dst: &mut BytesMut) -> Result<(), CodecError> {
                self.inner.encode(item, dst)
            }
        }
    };
}

wraps_a_codec!(Map);
wraps_a_codec!(TryMap);
