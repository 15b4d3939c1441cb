//! From what was read to frames.

use tokio_util::codec::Decoder;

use super::{Source, Wire};
use crate::error::{BoxError, Error, Result};

/// Where the codec stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between two frames.
    Boundary,
    /// It has been shown a part of a frame. That it has taken all there was does not mean it stands at a boundary: many
    /// a codec takes the head of a frame before the rest has come.
    Frame,
    /// In a frame that it has refused as too long, and drops: it leaves a byte until the end has come.
    Refused,
}

impl Wire {
    /// Whether the codec stands between two frames.
    pub(crate) fn at_boundary(&self) -> bool {
        self.place == Place::Boundary
    }

    /// Another codec is to look at what was read.
    pub(crate) fn look_again(&mut self) {
        self.dry = self.input.is_empty() && self.source == Source::Open;
    }

    /// The next frame of what has been read; `None` when more is needed, or when nothing more comes.
    #[inline(always)]
    pub(crate) fn decode<C>(&mut self, codec: &mut C) -> Option<Result<C::Item>>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        if self.dry || self.source == Source::Ended {
            return None;
        }
        if !self.skipped() {
            return self.cut_short().map(Err);
        }
        let before = self.input.len();
        match codec.decode(self.input.buf()) {
            Ok(Some(frame)) => Some(Ok(self.decoded(frame))),
            other => self.decoded_none(codec, other, before),
        }
    }

    /// Counts a frame.
    #[inline(always)]
    fn decoded<T>(&mut self, frame: T) -> T {
        self.place = Place::Boundary;
        self.wait.done();
        self.turn += 1;
        self.stats.add_frames_in(1);
        frame
    }

    /// What there is instead of a frame.
    #[cold]
    fn decoded_none<C>(
        &mut self,
        codec: &mut C,
        result: Result<Option<C::Item>, C::Error>,
        before: usize,
    ) -> Option<Result<C::Item>>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        let result = match result {
            Ok(None) if self.source == Source::Eof => self.decode_eof(codec),
            other => other,
        };
        match result {
            Ok(Some(frame)) => Some(Ok(self.decoded(frame))),
            Ok(None) => {
                if self.source == Source::Shut {
                    self.source = Source::Ended;
                }
                self.dry = true;
                self.place = match self.place {
                    Place::Refused if self.input.is_empty() => Place::Boundary,
                    Place::Boundary if before > 0 => Place::Frame,
                    place => place,
                };
                None
            }
            Err(error) => Some(Err(self.decode_failed(error))),
        }
    }

    fn decode_eof<C: Decoder>(&mut self, codec: &mut C) -> Result<Option<C::Item>, C::Error> {
        let result = codec.decode_eof(self.input.buf());
        if matches!(result, Ok(None)) {
            self.source = Source::Ended;
        }
        result
    }

    fn decode_failed(&mut self, error: impl Into<BoxError>) -> Error {
        let error = Error::codec(error);
        // A line that is too long may still have its end to come; other refused frames were whole.
        self.place = if error.is_too_long() { Place::Refused } else { Place::Boundary };
        self.wait.done();
        self.turn += 1;
        if !error.is_recoverable() {
            self.source = Source::Ended;
        }
        error
    }
}
