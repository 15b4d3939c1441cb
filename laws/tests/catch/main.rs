//! The kit can fail: one wrong codec for each law, and what is said about it.

mod halves;
mod left;
mod lent;
mod printed;
mod same;
mod seen;
mod wrong;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ropewalk_codecs::{CodecError, ErrorKind, Lines, RawBytes};
use ropewalk_laws::{Law, Laws, Violation};
use wrong::{Codec, Wrong, laws_of, lf, line};

#[track_caller]
fn caught<S: Wrong>(laws: &Laws<Codec<S>>, law: Law) -> Violation {
    let violation = laws.try_check().expect_err("it is wrong");
    assert_eq!(violation.law, law, "{violation}");
    assert_eq!(
        laws.try_check().expect_err("it is wrong").to_string(),
        violation.to_string(),
        "the same each time"
    );
    violation
}

/// Searches for CR LF from where it left off, and so does not find one that comes in two reads.
#[derive(Default)]
struct SplitDelimiter(usize);

impl Wrong for SplitDelimiter {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let rest = &src[self.0..];
        let Some(at) = rest.windows(2).position(|two| two == b"\r\n") else {
            self.0 = src.len();
            return Ok(None);
        };
        let line = src.split_to(self.0 + at).freeze();
        src.advance(2);
        self.0 = 0;
        Ok(Some(line))
    }
}

#[test]
fn a_delimiter_that_is_missed_when_it_comes_in_two_reads_breaks_law_1() {
    let laws = laws_of::<SplitDelimiter>().streams([b"one\r\ntwo\r\nthree\r\n"]);
    let violation = caught(&laws, Law::AnySegmentation);
    assert_eq!(violation.stream, b"\r\n");
    assert_eq!(violation.segmentation, [b"\r", b"\n"]);
    assert_eq!(violation.expected, ["frame b\"\""]);
    assert_eq!(violation.got, ["fatal: Truncated { have: 2 }"]);
}

/// Encodes all bytes it is given, also the delimiter.
#[derive(Default)]
struct Smuggler;

impl Wrong for Smuggler {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(lf(src).and_then(|at| line(src, at)))
    }

    fn encode(frame: &[u8], dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(frame);
        dst.put_u8(b'\n');
        Ok(())
    }
}

#[test]
fn a_frame_that_comes_back_as_two_breaks_law_2() {
    let laws = laws_of::<Smuggler>().frames(["fine", "250 OK\n221 Bye", "fine"].map(Bytes::from));
    let violation = caught(&laws, Law::RoundTrip);
    assert_eq!(violation.expected, ["frame b\"fine\"", "frame b\"250 OK\\n221 Bye\""]);
    assert_eq!(violation.got, ["frame b\"fine\"", "frame b\"250 OK\"", "frame b\"221 Bye\""]);
}

/// Gives what is left at the end as if it had been a line.
#[derive(Default)]
struct Hasty;

impl Wrong for Hasty {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(lf(src).and_then(|at| line(src, at)))
    }

    fn end(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let rest = src.split().freeze();
        Ok((!rest.is_empty()).then_some(rest))
    }
}

#[test]
fn half_a_frame_at_the_end_breaks_law_3_unless_that_is_wanted() {
    let laws = laws_of::<Hasty>().streams(["DELETE /tmp/a\n"]);
    let violation = caught(&laws, Law::PrefixSafety);
    assert_eq!(violation.stream.len(), 1);
    assert!(violation.got[0].starts_with("frame "));

    /// Stops without a word about what is left.
    #[derive(Default)]
    struct Silent;
    impl Wrong for Silent {
        fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
            Hasty.decode(src)
        }
        fn end(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
            Hasty.decode(src)
        }
    }
    caught(&laws_of::<Silent>().streams(["a\nb"]), Law::PrefixSafety);

    laws_of_final().check();
}

fn laws_of_final() -> Laws<Codec<NotRescanning>> {
    laws_of::<NotRescanning>().streams(["a\nb"]).final_frame()
}

/// Makes room for as much as the peer says will come.
#[derive(Default)]
struct Trusting;

impl Wrong for Trusting {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let Some((length, rest)) = src.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize & 0xff_ffff;
        if rest.len() < length {
            src.reserve(length - rest.len());
            return Ok(None);
        }
        src.advance(4);
        Ok(Some(src.split_to(length).freeze()))
    }
}

#[test]
fn room_for_a_length_that_was_announced_breaks_law_4() {
    let violation = caught(&laws_of::<Trusting>().streams([b"\0\x10\0\0"]), Law::BoundedMemory);
    assert_eq!(violation.stream.len(), 4);
}

#[test]
fn a_line_without_a_limit_breaks_law_4_though_no_stream_was_that_long() {
    let violation = caught(&laws_of::<Smuggler>().streams(["a\n"]).limit(100), Law::BoundedMemory);
    assert_eq!(violation.stream.len(), 101);
    assert_eq!(violation.expected, ["at most 100 bytes are left unread"]);
    Laws::new(|| Lines::lf().max(100)).streams(["a\n"]).limit(100).check();
}

/// Searches all that is there each time more has come.
#[derive(Default)]
struct Rescanning;

impl Wrong for Rescanning {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(lf(src).and_then(|at| line(src, at)))
    }
}

/// The same, right.
#[derive(Default)]
struct NotRescanning(usize);

impl Wrong for NotRescanning {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let found = lf(&src[self.0..]).map(|at| self.0 + at);
        self.0 = if found.is_some() { 0 } else { src.len() };
        Ok(found.and_then(|at| line(src, at)))
    }

    fn end(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let rest = src.split().freeze();
        Ok((!rest.is_empty()).then_some(rest))
    }
}

#[test]
fn the_cost_of_looking_again_is_reported() {
    let stream = "x".repeat(50) + "\n";
    let violation = caught(&laws_of::<Rescanning>().streams([&stream]), Law::LinearWork);
    assert_ne!(violation.expected, violation.got, "{violation}");
    assert!(violation.expected[0].contains(" that ends at byte "), "{violation}");
    assert!(violation.got[0].starts_with("a frame that ends at byte "), "{violation}");
}

#[test]
fn looking_again_at_seen_bytes_breaks_law_5() {
    let stream = "x".repeat(50) + "\n";
    let violation = caught(&laws_of::<Rescanning>().streams([&stream]), Law::LinearWork);
    assert!(violation.stream.len() > 32, "two windows and more");
    let report = laws_of::<NotRescanning>().final_frame().streams([&stream]).check();
    assert!(report.overwritten > 0);
    // In a frame that is shorter than the windows it is not seen.
    assert_eq!(laws_of::<Rescanning>().streams(["short\n"]).check().overwritten, 0);
}

#[test]
fn a_decoder_that_does_not_come_to_an_end_breaks_law_5() {
    /// Gives the same empty line again and again.
    #[derive(Default)]
    struct Stuck;
    impl Wrong for Stuck {
        fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
            Ok(src.starts_with(b"\n").then(Bytes::new))
        }
    }
    let violation = caught(&laws_of::<Stuck>().streams(["\n"]), Law::LinearWork);
    assert_eq!(violation.stream, b"\n");
    assert_eq!(
        violation.expected,
        ["at most 32 frames and errors"],
        "16 a byte, and 16 without one"
    );
}

/// Places its error at the byte before which it noticed, which is wherever a read ended.
#[derive(Default)]
struct Misplaced {
    taken: u64,
}

impl Wrong for Misplaced {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if src.len() > 4 {
            let error =
                CodecError::new(ErrorKind::TooLong { max: 4 }).at(self.taken + src.len() as u64);
            src.clear();
            return Err(error);
        }
        if src.len() < 4 {
            return Ok(None);
        }
        self.taken += 4;
        Ok(Some(src.split_to(4).freeze()))
    }
}

/// Says an error is fatal and goes on.
#[derive(Default)]
struct Undead;

impl Wrong for Undead {
    const FUSED: bool = false;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let Some(at) = lf(src) else { return Ok(None) };
        let line = line(src, at);
        if line.as_ref().is_some_and(|line| line.starts_with(b"!")) {
            return Err(CodecError::new(ErrorKind::BadLength));
        }
        Ok(line)
    }
}

/// Says an error is recoverable and gives nothing more.
#[derive(Default)]
struct Dead(bool);

impl Wrong for Dead {
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if self.0 {
            src.clear();
        }
        let error = match Undead.decode(src) {
            Err(error) => error,
            frame => return frame,
        };
        self.0 = true;
        Err(error.recoverable())
    }
}

#[test]
fn an_error_that_moves_with_the_reads_breaks_law_6() {
    let laws = laws_of::<Misplaced>().streams(["abcdefg"]);
    // Alone in one read it is an error, in two a frame: the first thing that is seen of it.
    assert!(matches!(laws.try_check().unwrap_err().law, Law::AnySegmentation | Law::PrefixSafety));

    /// The same with the error only where there is one.
    #[derive(Default)]
    struct AtTheEnd;
    impl Wrong for AtTheEnd {
        fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
            let bad = src.contains(&b'!');
            let error = || CodecError::new(ErrorKind::BadLength).at(src.len() as u64);
            if bad { Err(error()).inspect_err(|_| src.clear()) } else { Ok(None) }
        }
    }
    let violation = caught(&laws_of::<AtTheEnd>().streams(["ab!cd"]), Law::PlacedErrors);
    assert_eq!(violation.stream.len(), 2, "{violation}");
}

#[test]
fn frames_after_a_fatal_error_break_law_6() {
    let violation = caught(&laws_of::<Undead>().streams(["a\n!b\nc\n"]), Law::PlacedErrors);
    assert_eq!(violation.expected, ["nothing after a fatal error"]);
    assert_eq!(violation.stream, b"!\n");
}

#[test]
fn no_frames_after_a_recoverable_error_break_law_6() {
    let laws = laws_of::<Dead>().streams(["a\n!b\nc\n"]).frames([Bytes::from("next")]);
    let violation = caught(&laws, Law::PlacedErrors);
    assert_eq!(violation.expected, ["frame b\"next\""]);
    assert!(violation.to_string().contains("ends_with"));
}

/// Chunks as they arrive are not frames.
#[test]
fn chunks_that_are_not_merged_break_law_3() {
    let violation = Laws::new(|| RawBytes).streams(["abc"]).try_check().unwrap_err();
    assert_eq!((violation.law, &violation.stream[..]), (Law::PrefixSafety, &b"ac"[..]));
}
