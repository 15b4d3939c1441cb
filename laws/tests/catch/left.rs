//! What is left in the buffer: it may move, and after a fatal error there is nothing.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{CodecError, ErrorKind, LengthPrefixed};
use ropewalk_laws::Law;
use tokio_util::codec::Encoder;

use crate::wrong::{Wrong, laws_of};
use crate::{caught, lf, line};

/// Gives nothing more when unread bytes have moved to another buffer.
#[derive(Default)]
struct Rooted {
    at: Option<usize>,
}

impl Wrong for Rooted {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if self.at.is_some_and(|at| at != src.as_ptr() as usize) {
            return Ok(None);
        }
        let found = lf(src).and_then(|at| line(src, at));
        self.at = (!src.is_empty()).then_some(src.as_ptr() as usize);
        Ok(found)
    }
}

#[test]
fn unread_bytes_move_to_another_buffer_before_every_second_read() {
    let violation = caught(&laws_of::<Rooted>().streams(["ab\n"]), Law::AnySegmentation);
    assert_eq!(violation.segmentation.len(), 2, "{violation}");
}

/// Ends with an error, and leaves what it did not like in the buffer.
#[derive(Default)]
struct Hoarder {
    over: bool,
}

impl Wrong for Hoarder {
    const FUSED: bool = false;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match lf(src) {
            _ if self.over => Ok(None),
            Some(at) => Ok(line(src, at)),
            None if src.len() > 4 => {
                self.over = true;
                Err(CodecError::new(ErrorKind::TooLong { max: 4 }).at(4))
            }
            None => Ok(None),
        }
    }
}

#[test]
fn bytes_that_stay_in_the_buffer_after_a_fatal_error_break_law_6() {
    let violation = caught(&laws_of::<Hoarder>().streams(["abcde"]), Law::PlacedErrors);
    assert_eq!(violation.got, ["5 bytes stay in the buffer"], "{violation}");
}

/// Frames behind their length in a byte; what is left at the end is an error of which it says that
/// it is recoverable.
#[derive(Default)]
struct Lenient;

impl Wrong for Lenient {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let Some(length) = src.first().map(|&byte| usize::from(byte)) else { return Ok(None) };
        let whole = src.len() > length;
        Ok(whole.then(|| src.split_to(1 + length).freeze().slice(1..)))
    }

    fn end(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match self.decode(src)? {
            None if !src.is_empty() => {
                src.clear();
                Err(CodecError::new(ErrorKind::MissingTerminator).recoverable())
            }
            frame => Ok(frame),
        }
    }

    fn encode(frame: &[u8], dst: &mut BytesMut) -> Result<(), CodecError> {
        LengthPrefixed::u8().encode(frame, dst)
    }
}

#[test]
fn nothing_has_to_follow_an_error_that_is_only_one_at_the_end() {
    // More bytes make a frame of what was an error without them.
    laws_of::<Lenient>().streams([b"\x09ab"]).frames([Bytes::from("next")]).check();
}
