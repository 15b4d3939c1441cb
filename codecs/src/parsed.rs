//! Frames of a type that is made from a codec's frames.

use std::marker::PhantomData;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::converted::{Converted, encodes_as_the_codec, is_around_a_codec, makes_a_type};
use crate::error::{BoxError, CodecError};

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
    inner: Converted<C>,
    // It makes values of T and does not hold one.
    made: PhantomData<fn() -> T>,
}

is_around_a_codec!(Parsed);
makes_a_type!(Parsed);
encodes_as_the_codec!(Parsed);

impl<C, T> Decoder for Parsed<C, T>
where
    C: Decoder<Error: Into<BoxError>>,
    T: TryFrom<C::Item, Error: Into<BoxError>>,
{
    type Item = T;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        self.inner.decode(src, T::try_from)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<T>, CodecError> {
        self.inner.decode_eof(src, T::try_from)
    }
}
