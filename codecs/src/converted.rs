//! Any codec, with the position of its frames in the stream.

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{BoxError, CodecError};
use crate::frame::Progress;

/// A codec whose frames come with the offset at which they begin, whose errors are `CodecError`,
/// and which is fused after a fatal error even if the inner codec is not.
#[derive(Debug, Clone)]
pub(crate) struct Tracked<C> {
    pub(crate) codec: C,
    progress: Progress,
    /// Where the last frame, or the last error, ended.
    start: u64,
}

impl<C> Tracked<C> {
    pub(crate) fn new(codec: C) -> Self {
        Self { codec, progress: Progress::default(), start: 0 }
    }

    pub(crate) fn encode<T>(&mut self, item: T, dst: &mut BytesMut) -> Result<(), CodecError>
    where
        C: Encoder<T>,
        <C as Encoder<T>>::Error: Into<BoxError>,
    {
        self.codec.encode(item, dst).map_err(CodecError::from_any)
    }
}

impl<C> Tracked<C>
where
    C: Decoder<Error: Into<BoxError>>,
{
    pub(crate) fn decode(
        &mut self,
        src: &mut BytesMut,
    ) -> Result<Option<(u64, C::Item)>, CodecError> {
        self.step(src, C::decode)
    }

    pub(crate) fn decode_eof(
        &mut self,
        src: &mut BytesMut,
    ) -> Result<Option<(u64, C::Item)>, CodecError> {
        self.step(src, C::decode_eof)
    }

    fn step(
        &mut self,
        src: &mut BytesMut,
        decode: impl FnOnce(&mut C, &mut BytesMut) -> Result<Option<C::Item>, C::Error>,
    ) -> Result<Option<(u64, C::Item)>, CodecError> {
        if self.progress.is_over(src) {
            return Ok(None);
        }
        let before = src.len();
        let result = decode(&mut self.codec, src);
        self.progress.count(before.saturating_sub(src.len()));
        let start = self.start;
        match result {
            Ok(None) => Ok(None),
            Ok(Some(item)) => {
                self.start = self.progress.consumed();
                Ok(Some((start, item)))
            }
            Err(error) => {
                self.start = self.progress.consumed();
                let error = CodecError::from_any(error);
                if error.is_fatal() {
                    self.progress.fuse(src);
                }
                Err(error)
            }
        }
    }
}
