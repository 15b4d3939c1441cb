//! Codecs of one's own: what `Strict` adds to a format.

use std::cell::Cell;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ropewalk_codecs::custom::{FindFrame, Span, Strict, take_frame};
use ropewalk_codecs::{CodecError, CodecExt, ErrorKind};
use ropewalk_laws::{Laws, Lent};
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{encoded, gives};

/// `<`, a text, `>`. Anything else before the `<` is an error where it stands.
#[derive(Debug, Clone, Default)]
struct Angles {
    /// How many bytes were looked at.
    looks: Cell<usize>,
}

impl FindFrame for Angles {
    fn find_frame(&mut self, bytes: &[u8], seen: usize) -> Result<Option<Span>, CodecError> {
        self.looks.set(self.looks.get() + bytes.len() - seen);
        if bytes[0] != b'<' {
            return Err(CodecError::new(ErrorKind::BadLength));
        }
        for (at, byte) in bytes.iter().enumerate().skip(seen.max(1)) {
            match byte {
                b'>' => return Ok(Some(Span { lead: 1, content: at - 1, trail: 1 })),
                // It says that it can go on. It can't.
                b'<' => return Err(CodecError::parse("nested").at(at as u64)),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Angles {
    type Error = CodecError;

    fn encode(&mut self, text: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.put_u8(b'<');
        dst.extend_from_slice(text.as_ref());
        if text.as_ref().iter().any(|byte| b"<>".contains(byte)) {
            return Err(CodecError::new(ErrorKind::DelimiterInFrame)); // half of it is written
        }
        dst.put_u8(b'>');
        Ok(())
    }
}

/// A length in one byte, of which the highest bit says that there are three more; all but the last
/// is known at once.
#[derive(Debug, Clone)]
struct Prefixed;

impl FindFrame for Prefixed {
    fn find_frame(&mut self, mut bytes: &[u8], _: usize) -> Result<Option<Span>, CodecError> {
        if bytes[0] < 0x80 {
            return Ok(Some(Span { lead: 1, content: usize::from(bytes[0]), trail: 0 }));
        }
        if bytes.len() < 4 {
            return Ok(None);
        }
        let content = usize::try_from(bytes.get_u32() & 0x7fff_ffff).unwrap_or(usize::MAX);
        Ok(Some(Span { lead: 4, content, trail: 0 }))
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Prefixed {
    type Error = CodecError;

    fn encode(&mut self, frame: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        match u8::try_from(frame.as_ref().len()) {
            Ok(short) if short < 0x80 => dst.put_u8(short),
            _ => dst.put_u32(0x8000_0000 | u32::try_from(frame.as_ref().len()).unwrap_or(u32::MAX)),
        }
        dst.extend_from_slice(frame.as_ref());
        Ok(())
    }
}

fn angles(max: usize) -> Strict<Angles> {
    Strict::new(Angles::default()).max(max)
}

#[test]
fn the_laws_hold_for_a_strict_codec() {
    let streams = [
        "<one><two>",
        "<>",
        "<half",
        "x",
        "<a<b>",
        "<12345678>",
        "<123456789>",
        "<aaaaaaaaaaaaaaaaa",
        ">",
    ];
    let frames = ["", "one", "12345678"].map(Bytes::from);
    let report =
        Laws::new(|| angles(10)).streams(streams).frames(frames).limit(10).window(1).check();
    assert!(report.overwritten > 0, "{report}");
    Laws::new(|| angles(0)).streams(streams).limit(0).check();
    Laws::new(|| Strict::new(Angles::default()).unlimited()).streams(streams).check();
    Laws::new(|| angles(10).parse::<Bytes>()).streams(streams).limit(10).check();

    let streams: [&[u8]; 6] = [
        b"\x03one\0",
        b"\x80\0\0\x03two",
        b"\xff\xff\xff\xff",
        b"\x80\0",
        b"\x07",
        b"\x0b01234567890",
    ];
    let frames = [&[b'x'; 11][..], b"", b"one"].map(Bytes::copy_from_slice);
    Laws::new(|| Strict::new(Prefixed).max(12))
        .streams(streams)
        .frames(frames)
        .limit(12)
        .window(4)
        .check();
    Laws::new(|| Strict::new(Prefixed).unlimited()).streams(streams).window(4).check();
}

#[test]
fn frames_that_are_lent_are_the_same() {
    let streams = ["<one><two>", "<>", "<half", "x", "<a<b>", "<123456789>"];
    Laws::new(|| Lent(angles(10))).streams(streams).limit(10).check();
    for stream in streams {
        let lent = Laws::new(|| Lent(angles(10))).replay(&[stream.as_bytes()]);
        assert_eq!(lent, Laws::new(|| angles(10)).replay(&[stream.as_bytes()]));
    }
}

#[test]
fn errors_are_placed_in_the_stream_and_fatal() {
    gives(&angles(10), "<one>x<two>", ["one", "!BadLength@5"]);
    gives(&angles(10), "<one><t<o>", ["one", "!Parse(\"nested\")@7"]);
    gives(&angles(10), "<one><tw", ["one", "!Truncated { have: 3 }@8"]);
    gives(&angles(10), "<one><12345678>", ["one", "12345678"]);
    gives(&angles(10), "<one><123456789>", ["one", "!TooLong { max: 10 }@5"]);
    gives(&Strict::new(Prefixed).max(4), "\x03one\x04", ["one", "!TooLong { max: 4 }@4"]);
    gives(&Strict::new(Prefixed).unlimited(), b"\xff\xff\xff\xffx", ["!Truncated { have: 5 }@5"]);
}

#[test]
fn bytes_beyond_the_limit_do_not_change_an_error_before_it() {
    // Of ten bytes none is wrong, but there is no end: that the eleventh is wrong as well is not
    // looked at.
    gives(&angles(10), "<aaaaaaaaa<", ["!TooLong { max: 10 }@0"]);
    gives(&angles(10), "<aaaaaaaa<", ["!Parse(\"nested\")@9"]);
}

#[test]
fn a_frame_without_a_byte_is_an_error_and_not_endless() {
    #[derive(Debug, Clone)]
    struct Nothing;
    impl FindFrame for Nothing {
        fn find_frame(&mut self, _: &[u8], _: usize) -> Result<Option<Span>, CodecError> {
            Ok(Some(Span::bare(0)))
        }
    }
    let error = Strict::new(Nothing).decode(&mut BytesMut::from("x")).unwrap_err();
    assert!(error.is_fatal());
    assert_eq!(Strict::new(Nothing).decode(&mut BytesMut::new()).unwrap(), None);
}

#[test]
fn a_span_that_wraps_is_too_long() {
    #[derive(Debug, Clone)]
    struct Wraps;
    impl FindFrame for Wraps {
        fn find_frame(&mut self, _: &[u8], _: usize) -> Result<Option<Span>, CodecError> {
            Ok(Some(Span { lead: 2, content: usize::MAX, trail: 2 }))
        }
    }
    let error = Strict::new(Wraps).unlimited().decode(&mut BytesMut::from("xxxx")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLong { .. }), "{error}");
}

#[test]
fn a_format_sees_a_long_frame_once_though_it_comes_a_byte_at_a_time() {
    let mut codec = Strict::new(Angles::default());
    let mut buffer = BytesMut::new();
    for byte in [&[b'<'][..], &[b'x'; 5000], b">"].concat() {
        buffer.put_u8(byte);
        if codec.decode(&mut buffer).unwrap().is_some() {
            assert_eq!(codec.get_ref().looks.get(), 5002);
            return;
        }
    }
    panic!("no frame was found");
}

#[test]
fn nothing_of_a_refused_frame_is_written() {
    assert_eq!(encoded(&angles(5), "one").unwrap(), "<one>");
    let mut buffer = BytesMut::from("before");
    for (frame, max) in [("a>b", 10), ("four", 5)] {
        assert!(angles(max).encode(frame, &mut buffer).is_err());
        assert_eq!(buffer, "before");
    }
}

#[test]
fn small_frames_are_copied_and_large_ones_shared() {
    for (size, shared) in [(0, false), (512, false), (513, true)] {
        let mut buffer = BytesMut::from(&[b'x'; 1000][..]);
        let at = buffer.as_ptr();
        let frame = take_frame(&mut buffer, size);
        assert_eq!((frame.len(), buffer.len()), (size, 1000 - size));
        assert_eq!(frame.as_ptr() == at, shared, "{size}");
    }
}
