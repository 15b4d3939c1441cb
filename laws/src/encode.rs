//! Laws 2 and 7: frames that are encoded.

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::drive::{Event, drive, join};
use super::law::Law;
use super::violation::{Replay, Violation};
use super::{Laws, Subject};

/// The content of the buffer before a frame is encoded.
const BEFORE: &[u8] = b"before";

/// Encodes a frame, and returns whether it was accepted.
type Encode<C> = Box<dyn Fn(&mut C, &mut BytesMut) -> bool>;

/// A frame to encode.
pub(super) struct Sent<C: Decoder> {
    pub(super) encode: Encode<C>,
    /// The frame that it must be decoded to.
    pub(super) item: Box<dyn Fn() -> C::Item>,
    pub(super) shown: String,
}

/// A stream of encoded frames, and the frames it must be decoded to.
struct Encoded<T> {
    stream: Vec<u8>,
    events: Vec<Event<T>>,
}

impl<C: Subject> Laws<C> {
    /// The encoded sequence, for the other laws; empty if encoding it breaks a law.
    pub(super) fn encoded(&self, frames: &[Sent<C>]) -> Vec<u8> {
        self.encode(frames).map(|encoded| encoded.stream).unwrap_or_default()
    }

    /// Checks laws 7 and 2 on a sequence of frames. It reports the shortest start of the sequence
    /// that breaks one.
    pub(super) fn check_frames(&self, frames: &[Sent<C>]) -> Result<(), Violation> {
        let Err(violation) = self.round_trip(frames) else {
            return Ok(());
        };
        // Only the last frames are dropped, because a frame may depend on the one before, as raw
        // bytes depend on the line that announces them.
        (0..frames.len()).try_for_each(|end| self.round_trip(&frames[..end]))?;
        Err(violation)
    }

    fn encode(&self, frames: &[Sent<C>]) -> Result<Encoded<C::Item>, Violation> {
        let mut codec = (self.make)();
        let mut buffer = BytesMut::from(BEFORE);
        let mut events = Vec::new();
        for frame in frames {
            let before = buffer.clone();
            let taken = (frame.encode)(&mut codec, &mut buffer);
            if taken && buffer.starts_with(&before) {
                join(self, &mut events, Event::Frame((frame.item)()));
            } else if buffer != before {
                return Err(self.half_frame(frame, taken, &before, &buffer));
            }
        }
        Ok(Encoded { stream: buffer[BEFORE.len()..].to_vec(), events })
    }

    fn half_frame(&self, frame: &Sent<C>, taken: bool, before: &[u8], after: &[u8]) -> Violation {
        let mut alone = BytesMut::from(BEFORE);
        if before != BEFORE
            && (frame.encode)(&mut (self.make)(), &mut alone) == taken
            && if taken { !alone.starts_with(BEFORE) } else { alone != BEFORE }
        {
            return self.half_frame(frame, taken, BEFORE, &alone);
        }
        let what = if taken { "the buffer with a frame after it" } else { "the buffer as it was" };
        Violation {
            expected: vec![format!("{what}: b\"{}\"", before.escape_ascii())],
            got: vec![format!("b\"{}\"", after.escape_ascii())],
            ..self.violation(
                Law::NoHalfFrames,
                before,
                &[],
                Replay::Encodes { frame: frame.shown.clone(), taken },
            )
        }
    }

    fn round_trip(&self, frames: &[Sent<C>]) -> Result<(), Violation> {
        let Encoded { stream, events } = self.encode(frames)?;
        let run = drive(self, (self.make)(), &[&stream], None)
            .map_err(|broken| self.alone(&stream, &[], broken))?;
        if run.events == events {
            return Ok(());
        }
        let mut violation = self.violation(Law::RoundTrip, &stream, &[], Replay::Gives);
        violation.expected = events.iter().map(Event::show).collect();
        violation.got = run.events.iter().map(Event::show).collect();
        Err(violation)
    }
}
