//! Lines as strings.

use bytes::BytesMut;
use bytestring::ByteString;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{CodecError, ErrorKind};
use crate::frame::Span;
use crate::lines::Lines;

/// Lines as strings, without copying them a second time: made by [`Lines::utf8`].
///
/// ```
/// use bytes::BytesMut;
/// use bytestring::ByteString;
/// use ropewalk_codecs::{Lines, Utf8};
/// use tokio_util::codec::Decoder;
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut lines: Utf8<Lines> = Lines::lf().utf8();
/// let line: Option<ByteString> = lines.decode(&mut BytesMut::from("smörgås\n"))?;
/// assert_eq!(line.unwrap(), "smörgås");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of [`Lines`], and [`ErrorKind::InvalidUtf8`] at the first byte that is not UTF-8, once the
/// whole line has arrived. It is recoverable: the next call gives the next line. Encoding takes
/// strings only.
#[derive(Debug, Clone)]
pub struct Utf8<C> {
    codec: C,
}

impl<C> Utf8<C> {
    pub(super) fn new(codec: C) -> Self {
        Self { codec }
    }

    /// The codec underneath.
    pub fn get_ref(&self) -> &C {
        &self.codec
    }

    /// The codec underneath.
    pub fn get_mut(&mut self) -> &mut C {
        &mut self.codec
    }

    /// The codec underneath, by value.
    pub fn into_inner(self) -> C {
        self.codec
    }
}

impl Utf8<Lines> {
    fn string(
        &mut self,
        src: &mut BytesMut,
        span: Option<Span>,
    ) -> Result<Option<ByteString>, CodecError> {
        let Some(span) = span else {
            return Ok(None);
        };
        let start = self.codec.progress().consumed();
        let line = self.codec.progress().take(src, span);
        ByteString::try_from(line).map(Some).map_err(|error| {
            let at = start + error.valid_up_to() as u64;
            CodecError::new(ErrorKind::InvalidUtf8).at(at).recoverable()
        })
    }
}

impl Decoder for Utf8<Lines> {
    type Item = ByteString;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<ByteString>, CodecError> {
        let span = self.codec.find(src)?;
        self.string(src, span)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<ByteString>, CodecError> {
        let span = self.codec.find_last(src)?;
        self.string(src, span)
    }
}

impl<T: AsRef<str>> Encoder<T> for Utf8<Lines> {
    type Error = CodecError;

    fn encode(&mut self, line: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.codec.encode(line.as_ref(), dst)
    }
}
