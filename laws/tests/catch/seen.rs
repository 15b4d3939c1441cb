//! The bytes that a decoder has seen and left are overwritten with others: also those behind a
//! frame, and with whole delimiters.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::CodecError;
use ropewalk_laws::Law;

use crate::wrong::{Wrong, laws_of};
use crate::{NotRescanning, caught};

/// Makes room for more when what it has seen and has left is no longer what it was.
#[derive(Default)]
struct Startled {
    lines: NotRescanning,
    left: Vec<u8>,
}

impl Wrong for Startled {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if !src.starts_with(&self.left) {
            src.reserve(100_000);
        }
        let line = self.lines.decode(src);
        self.left = src.to_vec();
        line
    }
}

#[test]
fn other_effects_of_looking_again_are_reported() {
    let stream = "x".repeat(50) + "\n";
    let violation = caught(&laws_of::<Startled>().streams([&stream]), Law::BoundedMemory);
    assert!(violation.expected[0].contains("does not grow"), "{violation}");
    assert!(violation.got[0].contains("bytes, with room for"), "{violation}");
}

/// The same once it has given a frame.
#[derive(Default)]
struct StartledLater {
    startled: Startled,
    given: bool,
}

impl Wrong for StartledLater {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if self.given {
            return self.startled.decode(src);
        }
        let line = self.startled.lines.decode(src);
        self.given = matches!(line, Ok(Some(_)));
        line
    }
}

#[test]
fn seen_bytes_behind_a_frame_are_overwritten_as_well() {
    let stream = "x".repeat(60) + "\n" + &"x".repeat(50) + "\n";
    caught(&laws_of::<StartledLater>().streams([&stream]), Law::BoundedMemory);
    // All of it, however it comes.
    assert_eq!(
        laws_of::<NotRescanning>().final_frame().streams([&stream]).check().overwritten,
        511
    );
}

/// Makes room for more when two CRs have come where there was something else.
#[derive(Default)]
struct Pedantic(Startled);

impl Wrong for Pedantic {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if src.windows(2).any(|two| two == b"\r\r") {
            return self.0.decode(src);
        }
        let line = self.0.lines.decode(src);
        self.0.left = src.to_vec();
        line
    }
}

#[test]
fn a_delimiter_of_two_bytes_is_written_whole_by_its_place_in_the_stream() {
    let stream = "x".repeat(50) + "\n";
    laws_of::<Pedantic>().streams([&stream]).check();
}
