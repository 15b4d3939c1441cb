//! Law 7: an encoder that refuses a frame leaves the buffer as it was.

use bytes::{BufMut, Bytes, BytesMut};
use ropewalk_codecs::{CodecError, ErrorKind, LengthPrefixed};
use ropewalk_laws::Law;
use tokio_util::codec::Decoder;

use crate::wrong::{Wrong, laws_of};
use crate::{Rescanning, caught};

/// Writes the length before it knows that the frame may be sent.
#[derive(Default)]
struct HalfWritten;

impl Wrong for HalfWritten {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        LengthPrefixed::u8().decode(src)
    }

    fn encode(frame: &[u8], dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.put_u8(frame.len().try_into().unwrap_or(u8::MAX));
        if frame.len() > 8 {
            return Err(CodecError::new(ErrorKind::TooLong { max: 8 }));
        }
        dst.extend_from_slice(frame);
        Ok(())
    }
}

#[test]
fn half_a_frame_in_the_buffer_breaks_law_7() {
    let laws = laws_of::<HalfWritten>().frames(["fine", "longer than it may be"].map(Bytes::from));
    let violation = caught(&laws, Law::NoHalfFrames);
    assert_eq!(violation.stream, b"before");
    assert_eq!(violation.expected, ["the buffer as it was: b\"before\""]);
    assert_eq!(violation.got, ["b\"before\\x15\""]);
    let text = violation.to_string();
    assert!(text.contains("b\"longer than it may be\", &mut buffer).is_err()"), "{text}");
    assert!(text.contains("assert_eq!(&buffer[..], b\"before\");"), "{text}");
}

#[test]
fn a_frame_that_overwrites_the_buffer_breaks_law_7() {
    #[derive(Default)]
    struct Overwriting;
    impl Wrong for Overwriting {
        fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
            Rescanning.decode(src)
        }
        fn encode(frame: &[u8], dst: &mut BytesMut) -> Result<(), CodecError> {
            dst.clear();
            Rescanning::encode(frame, dst)
        }
    }
    let violation = caught(&laws_of::<Overwriting>().frames([Bytes::from("a")]), Law::NoHalfFrames);
    assert_eq!(violation.expected, ["the buffer with a frame after it: b\"before\""]);
    assert_eq!(violation.got, ["b\"a\\n\""]);
}

/// Right with the first frame, and wrong with one that is refused behind others.
#[derive(Default)]
struct HalfLater<const CLEARS: bool>;

impl<const CLEARS: bool> Wrong for HalfLater<CLEARS> {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Rescanning.decode(src)
    }

    fn encode(frame: &[u8], dst: &mut BytesMut) -> Result<(), CodecError> {
        let later = dst.contains(&b'\n');
        if later && CLEARS {
            dst.clear();
        } else if frame.len() > 8 {
            dst.extend_from_slice(if later { b"half" } else { b"" });
            return Err(CodecError::new(ErrorKind::TooLong { max: 8 }));
        }
        Rescanning::encode(frame, dst)
    }
}

#[test]
fn a_fault_that_needs_earlier_frames_is_shown_behind_them() {
    let frames = || ["fine", "longer than it may be"].map(Bytes::from);
    let violation = caught(&laws_of::<HalfLater<false>>().frames(frames()), Law::NoHalfFrames);
    assert_eq!(violation.got, ["b\"beforefine\\nhalf\""]);
    let violation = caught(&laws_of::<HalfLater<true>>().frames(frames()), Law::NoHalfFrames);
    assert_eq!(violation.got, ["b\"longer than it may be\\n\""]);
    assert_eq!(violation.stream, b"beforefine\n");
    // Also one that is taken in both places.
    let violation = caught(
        &laws_of::<HalfLater<true>>().frames(["fine", "well"].map(Bytes::from)),
        Law::NoHalfFrames,
    );
    assert_eq!(violation.got, ["b\"well\\n\""]);
    assert_eq!(violation.stream, b"beforefine\n");
}
