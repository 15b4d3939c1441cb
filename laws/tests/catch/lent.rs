//! A codec that lends frames, as a decoder.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{CodecError, Lines};
use ropewalk_laws::Lent;
use tokio_util::codec::{Decoder, Encoder};

#[test]
fn frames_that_are_lent_are_decoded_as_copies_and_leave_the_buffer() -> Result<(), CodecError> {
    let mut codec = Lent(Lines::lf());
    let mut buffer = BytesMut::from("one\ntwo\nhalf");
    assert_eq!(codec.decode(&mut buffer)?, Some(Bytes::from("one")));
    assert_eq!(buffer, "two\nhalf");
    assert_eq!(codec.decode(&mut buffer)?, Some(Bytes::from("two")));
    assert_eq!(codec.decode(&mut buffer)?, None);
    assert_eq!(buffer, "half", "an incomplete frame stays");
    assert_eq!(codec.decode(&mut BytesMut::new())?, None);
    Ok(())
}

#[test]
fn the_last_frame_is_lent_at_the_end_of_the_stream() {
    let mut codec = Lent(Lines::lf().final_line());
    let mut buffer = BytesMut::from("half");
    assert_eq!(codec.decode_eof(&mut buffer).ok().flatten(), Some(Bytes::from("half")));
    assert!(buffer.is_empty());
}

#[test]
fn frames_are_encoded_as_by_the_codec_itself() -> Result<(), CodecError> {
    let mut buffer = BytesMut::new();
    Lent(Lines::lf()).encode("one", &mut buffer)?;
    assert_eq!(buffer, "one\n");
    Ok(())
}
