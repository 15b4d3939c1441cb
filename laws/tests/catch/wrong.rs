//! What the wrong codecs share: the right rest.

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_codecs::{CodecError, ErrorKind, Lines};
use ropewalk_laws::Laws;
use tokio_util::codec::{Decoder, Encoder};

/// A codec of frames that are bytes, by two functions: everything here is one of these.
#[derive(Default)]
pub(crate) struct Codec<S> {
    state: S,
    /// After a fatal error.
    over: bool,
}

impl<S: Wrong> Codec<S> {
    fn step(
        &mut self,
        src: &mut BytesMut,
        step: fn(&mut S, &mut BytesMut) -> Result<Option<Bytes>, CodecError>,
    ) -> Result<Option<Bytes>, CodecError> {
        if self.over && S::FUSED {
            src.clear();
            return Ok(None);
        }
        step(&mut self.state, src).inspect_err(|error| self.over = error.is_fatal())
    }
}

/// How a wrong codec decodes and encodes; what it does not say is right.
pub(crate) trait Wrong: Default + 'static {
    const FUSED: bool = true;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError>;

    fn end(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match self.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None if src.is_empty() => Ok(None),
            None => {
                let have = src.len() as u64;
                src.clear();
                // Nothing but the rule is looked at here, so it needs no offset.
                Err(CodecError::new(ErrorKind::Truncated { have }))
            }
        }
    }

    fn encode(frame: &[u8], dst: &mut BytesMut) -> Result<(), CodecError> {
        Lines::lf().encode(frame, dst)
    }
}

impl<S: Wrong> Decoder for Codec<S> {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.step(src, S::decode)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.step(src, S::end)
    }
}

impl<S: Wrong> Encoder<Bytes> for Codec<S> {
    type Error = CodecError;

    fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        S::encode(&frame, dst)
    }
}

/// The line before the LF at `at`.
pub(crate) fn line(src: &mut BytesMut, at: usize) -> Option<Bytes> {
    let line = src.split_to(at).freeze();
    src.advance(1);
    Some(line)
}

/// Where the first LF is.
pub(crate) fn lf(src: &[u8]) -> Option<usize> {
    src.iter().position(|&byte| byte == b'\n')
}

pub(crate) fn laws_of<S: Wrong>() -> Laws<Codec<S>> {
    Laws::new(Codec::<S>::default).named("Wrong")
}
