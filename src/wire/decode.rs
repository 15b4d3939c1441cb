//! Decodes frames from the bytes that were read.

use ropewalk_codecs::own_limit;
use tokio_util::codec::Decoder;

use super::turn::STEPS_A_TURN;
use super::{Source, Wire};
use ropewalk_middleware::{BoxError, CloseReason, Error, Result, SessionError, ban};

/// After a frame up to this size, the rest of the burst is not moved.
const SHORT: usize = 16 * 1024;
/// This many frames or errors may follow one another without a byte being taken.
const IDLE_STEPS: u32 = 1000;
/// This many more are allowed for each byte that was taken before: a decoder may take all bytes at
/// once and then yield frames from them, perhaps one for each bit, or frames that were compressed.
const STEPS_A_BYTE: u32 = 64;
/// The most bytes that count for this: one read.
const COUNTED: u32 = 64 * 1024;

/// The position of the codec in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameState {
    /// Between two frames.
    Boundary,
    /// It has seen a part of a frame. An empty buffer does not mean that it is between two frames:
    /// many codecs take the head of a frame before the rest has arrived.
    Frame,
    /// In a frame that it has refused as too long and drops: it leaves a byte in the buffer until
    /// the frame's end has arrived.
    Refused,
}

/// Checks that a codec makes progress. Used only when it wants more bytes, and when it yields a
/// frame without taking a byte.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Its offset in the stream at the last check: the lower half, so that every connection has four
    /// bytes less. An offset only has to differ from the last one.
    taken: u32,
    /// How many more frames and errors it may yield at this offset. 0 if it has not yielded any
    /// there.
    steps: u32,
}

impl Pace {
    /// Counts a frame for which no byte was taken, at the offset `taken`. True when it is one too
    /// many.
    fn stalls(&mut self, taken: u64) -> bool {
        let taken = lower_half(taken);
        if self.steps == 0 || taken != self.taken {
            let counted = taken.wrapping_sub(self.taken).min(COUNTED);
            *self = Self { taken, steps: IDLE_STEPS + STEPS_A_BYTE * counted };
        }
        self.steps -= 1;
        self.steps == 0
    }

    /// The codec waits for more bytes; the count begins again with them.
    fn rest(&mut self, taken: u64) {
        *self = Self { taken: lower_half(taken), steps: 0 };
    }
}

#[allow(clippy::cast_possible_truncation)] // that is its purpose
fn lower_half(offset: u64) -> u32 {
    offset as u32
}

impl Wire {
    /// Whether the codec is between two frames.
    pub(crate) fn at_boundary(&self) -> bool {
        self.place == FrameState::Boundary
    }

    /// Makes the next `decode` look at the bytes that were read, because the codec has changed.
    pub(crate) fn look_again(&mut self) {
        self.dry = self.input.is_empty() && self.source == Source::Open;
    }

    /// The next frame in the bytes that were read; `None` when more bytes are needed, or when no
    /// more will come.
    #[inline(always)]
    pub(crate) fn decode<C>(&mut self, codec: &mut C) -> Option<Result<C::Item>>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        if self.stats().is_at_frame_limit() {
            self.end_at_limit();
            return None;
        }
        if self.dry || self.source == Source::Ended {
            return None;
        }
        if !self.skipped() {
            return self.cut_short().map(Err);
        }
        let before = self.input.len();
        match codec.decode(self.input.buf()) {
            // One test for the two cases that need a closer look: no byte was taken, or very many.
            Ok(Some(frame)) if before.wrapping_sub(self.input.len()).wrapping_sub(1) < SHORT => {
                Some(Ok(self.decoded(frame)))
            }
            other => match self.decoded_otherwise(codec, other, before) {
                Ok(frame) => Some(Ok(frame)),
                Err(error) => error.map(Err),
            },
        }
    }

    /// No more frames are taken: the connection closes as in a drain.
    #[cold]
    fn end_at_limit(&mut self) {
        if self.source != Source::Ended {
            self.closing.set_reason(CloseReason::MaxCalls);
            self.closing.drain();
            self.source = Source::Ended;
            self.input.clear();
            self.settle();
        }
    }

    /// Counts a frame.
    #[inline(always)]
    fn decoded<T>(&mut self, frame: T) -> T {
        self.place = FrameState::Boundary;
        self.wait.done();
        self.turn += 1;
        self.stats().add_frames_in(1);
        frame
    }

    /// Handles a result other than a frame, and frames that are long or for which no byte was
    /// taken. `Err(None)` is no frame.
    ///
    /// The type is not that of `decode`: of one type, the compiler would have this function write
    /// to the place of the result, and then the frame of the usual case goes through memory too.
    #[cold]
    fn decoded_otherwise<C>(
        &mut self,
        codec: &mut C,
        mut result: Result<Option<C::Item>, C::Error>,
        mut before: usize,
    ) -> Result<C::Item, Option<Error>>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        let shown = before > 0;
        let mut at_end = false;
        // A decoder that has dropped bytes and found no frame may find one in the bytes it has
        // left.
        while matches!(result, Ok(None)) && (1..before).contains(&self.input.len()) {
            if self.turn >= STEPS_A_TURN {
                // Decoding will go on here, so this is not the end of the buffered frames.
                self.place = FrameState::Frame;
                return Err(None);
            }
            self.turn += 1;
            before = self.input.len();
            result = codec.decode(self.input.buf());
        }
        if matches!(result, Ok(None)) && self.source == Source::Eof {
            before = self.input.len();
            at_end = true;
            result = self.decode_eof(codec);
        }
        match result {
            Ok(Some(frame)) => match self.check_pace(before) {
                Ok(()) => Ok(self.decoded(frame)),
                Err(error) => Err(Some(self.give_up(error))),
            },
            Ok(None) => Err(self.decoded_none(shown)),
            Err(error) => {
                // A frame that the end has cut short is no offence: a client that is stopped leaves
                // one behind.
                if !at_end {
                    // Before the close reason is set: a ban comes first.
                    ban::offence(&self.connection.info());
                }
                Err(Some(self.decode_failed(error, before)))
            }
        }
    }

    fn decode_eof<C: Decoder>(&mut self, codec: &mut C) -> Result<Option<C::Item>, C::Error> {
        let result = codec.decode_eof(self.input.buf());
        if matches!(result, Ok(None)) {
            self.source = Source::Ended;
        }
        result
    }

    /// The codec wants more bytes; checks how many it may leave in the buffer.
    fn decoded_none(&mut self, shown: bool) -> Option<Error> {
        let max = self.limits.input_limit;
        let whole = own_limit::holds_for(self.input.bytes());
        if self.source == Source::Open && self.input.len() > max && whole.is_none() {
            return Some(self.give_up(SessionError::InputLimit { max }));
        }
        self.input.expect(whole.unwrap_or(0));
        if self.source == Source::Shut {
            self.source = Source::Ended;
        }
        self.dry = true;
        self.pace.rest(self.taken());
        self.place = match self.place {
            FrameState::Refused if self.input.is_empty() => FrameState::Boundary,
            FrameState::Boundary if shown => FrameState::Frame,
            place => place,
        };
        None
    }

    /// Checks the codec's progress after a frame or a recoverable error. `before` is the number of
    /// bytes in the buffer before that.
    fn check_pace(&mut self, before: usize) -> Result<(), SessionError> {
        let left = self.input.len();
        if left < before {
            self.input.leave(before - left);
            return Ok(());
        }
        let max = self.limits.input_limit;
        if left > before && left > max {
            return Err(SessionError::InputLimit { max });
        }
        if self.pace.stalls(self.taken()) { Err(SessionError::CodecStalled) } else { Ok(()) }
    }

    fn decode_failed(&mut self, error: impl Into<BoxError>, before: usize) -> Error {
        let error = Error::codec(error);
        if error.is_recoverable()
            && let Err(error) = self.check_pace(before)
        {
            return self.give_up(error);
        }
        // The end of a too-long line may not have arrived yet; other refused frames were complete.
        self.place = if error.is_too_long() { FrameState::Refused } else { FrameState::Boundary };
        self.wait.done();
        self.turn += 1;
        if !error.is_recoverable() {
            self.source = Source::Ended;
        }
        error
    }

    /// The codec's offset in the stream.
    pub(crate) fn taken(&self) -> u64 {
        self.stats().bytes_in().saturating_sub(self.input.len() as u64)
    }

    /// Ends the connection because of its codec.
    fn give_up(&mut self, error: SessionError) -> Error {
        if let SessionError::InputLimit { .. } = error {
            // The peer has not caused a stalled codec.
            ban::offence(&self.connection.info());
        }
        let error = Error::codec(error);
        // Set here, because a session may not pass the error on.
        if let Some(reason) = error.close_reason() {
            self.closing.set_reason(reason);
        }
        self.input.clear();
        self.settle();
        self.place = FrameState::Boundary;
        self.wait.done();
        self.source = Source::Ended;
        error
    }
}
