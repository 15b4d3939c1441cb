//! Frames of a type that is made from a codec's frames.

use std::fmt;
use std::marker::PhantomData;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{BoxError, CodecError};
use crate::tracked::Tracked;

/// Frames of type `T`, converted by `TryFrom` from the frames of the codec `C`: made by
/// [`CodecExt::parse`](crate::CodecExt::parse).
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use ropewalk_codecs::{CodecExt, Lines, Parsed};
/// use tokio_util::codec::Decoder;
///
/// #[derive(Debug, PartialEq)]
/// enum Command {
///     Time,
///     Quit,
/// }
///
/// impl TryFrom<Bytes> for Command {
///     type Error = &'static str;
///
///     fn try_from(line: Bytes) -> Result<Self, Self::Error> {
///         match &line[..] {
///             b"TIME" => Ok(Self::Time),
///             b"QUIT" => Ok(Self::Quit),
///             _ => Err("no such command"),
///         }
///     }
/// }
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut commands: Parsed<Lines, Command> = Lines::crlf().parse();
/// let mut buffer = BytesMut::from("TIME\r\nTEA\r\nQUIT\r\n");
/// assert_eq!(commands.decode(&mut buffer)?, Some(Command::Time));
/// let error = commands.decode(&mut buffer).unwrap_err();
/// assert_eq!((error.offset(), error.is_fatal()), (Some(6), false));
/// assert_eq!(commands.decode(&mut buffer)?, Some(Command::Quit));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of `C`, converted by [`CodecError::from_any`]; and those of the conversion, as a
/// recoverable [`ErrorKind::Parse`](crate::ErrorKind::Parse) at the offset where the last frame or
/// error ended. There this frame begins, or the rest of a too long line that was skipped before it.
/// Encoding is that of `C`.
pub struct Parsed<C, T> {
    inner: Tracked<C>,
    // It makes values of T and does not hold one.
    made: PhantomData<fn() -> T>,
}

impl<C, T> Parsed<C, T> {
    pub(crate) fn new(codec: C) -> Self {
        Self { inner: Tracked::new(codec), made: PhantomData }
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

impl<C: Clone, T> Clone for Parsed<C, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), made: PhantomData }
    }
}

impl<C: fmt::Debug, T> fmt::Debug for Parsed<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parsed").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn parse<I, T>(frame: Option<(u64, I)>) -> Result<Option<T>, CodecError>
where
    T: TryFrom<I, Error: Into<BoxError>>,
{
    let Some((start, frame)) = frame else {
        return Ok(None);
    };
    T::try_from(frame).map(Some).map_err(|error| CodecError::parse(error).at(start))
}

impl<C, T> Decoder for Parsed<C, T>
where
    C: Decoder<Error: Into<BoxError>>,
    T: TryFrom<C::Item, Error: Into<BoxError>>,
{
    type Item = T;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        parse(self.inner.decode(src)?)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        parse(self.inner.decode_eof(src)?)
    }
}

impl<C, T, I> Encoder<I> for Parsed<C, T>
where
    C: Encoder<I>,
    <C as Encoder<I>>::Error: Into<BoxError>,
{
    type Error = CodecError;

    fn encode(&mut self, item: I, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.inner.encode(item, dst)
    }
}
