//! Frames of a type on any codec, and errors of any codec as ours.

use std::error::Error;
use std::io;

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{
    CodecError, CodecExt, ErrorKind, Json, LengthPrefixed, LineOrRaw, LineRaw, Lines, Map,
    Netstring, Parsed, RawBytes, TryMap, Utf8,
};
use tokio_util::codec::{Decoder, Encoder, LinesCodec};

use crate::support::{encoded, gives, refuses};

/// A line of decimal digits.
#[derive(Debug, Clone, PartialEq)]
struct Digits(String);

impl TryFrom<Bytes> for Digits {
    type Error = &'static str;

    fn try_from(line: Bytes) -> Result<Self, Self::Error> {
        match std::str::from_utf8(&line) {
            Ok(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self(text.to_owned())),
            _ => Err("not a number"),
        }
    }
}

impl AsRef<[u8]> for Digits {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

const BAD: &str = "Parse(\"not a number\")";

#[test]
fn a_frame_that_does_not_parse_is_an_error_and_the_next_frame_comes() {
    let numbers: Parsed<Lines, Digits> = Lines::crlf().parse();
    gives(&numbers, "1\r\nx\r\n22\r\n", ["1", &format!("?{BAD}@3"), "22"]);
    let numbers = Netstring::new().parse::<Digits>();
    gives(&numbers, "1:7,2:xx,0:,", ["7", &format!("?{BAD}@4"), ""]);
    let numbers = LengthPrefixed::u8().parse::<Digits>();
    gives(&numbers, "\x01x\x017", [&format!("?{BAD}@0"), "7"]);
}

#[test]
fn the_errors_of_the_codec_stay_as_they_are() {
    let numbers = Lines::lf().max(2).parse::<Digits>();
    gives(&numbers, "1\n333\n", ["1", "!TooLong { max: 2 }@4"]);
    gives(&numbers, "1\n3", ["1", "!Truncated { have: 1 }@3"]);
    let numbers = Lines::lf().max(2).skip_too_long().parse::<Digits>();
    gives(&numbers, "333\n1\nx\n", ["?TooLong { max: 2 }@2", "1", &format!("?{BAD}@6")]);
    // After a skipped line the offset is where the error ended.
    gives(&numbers, "333\nx\n", ["?TooLong { max: 2 }@2", &format!("?{BAD}@2")]);
    let last = Lines::lf().final_line().parse::<Digits>();
    gives(&last, "1\nx", ["1", &format!("?{BAD}@2")]);
}

#[test]
fn frames_go_through_a_function() {
    let upper = Lines::lf().map(|line: Bytes| line.to_ascii_uppercase());
    gives(&upper, "a\nb\n", ["A", "B"]);
    let short = Lines::lf()
        .final_line()
        .try_map(|line: Bytes| if line.len() < 2 { Ok(line) } else { Err("long") });
    gives(&short, "a\nbb\nc\ndd", ["a", "?Parse(\"long\")@2", "c", "?Parse(\"long\")@7"]);
    // One after the other: the errors of the inner one stay as they are.
    let both = short.map(|line: Bytes| [&line[..], b"!"].concat()).parse::<Vec<u8>>();
    gives(&both, "a\nbb\n", ["a!", "?Parse(\"long\")@2"]);
}

#[test]
fn encoding_is_the_codecs_own() {
    let codec = Lines::crlf().parse::<Digits>();
    assert_eq!(encoded(&codec, "any bytes").unwrap(), "any bytes\r\n");
    assert_eq!(encoded(&codec, Digits("7".into())).unwrap(), "7\r\n");
    refuses(&codec, "\r\n", "DelimiterInFrame");
    refuses(&Lines::crlf().map(|line: Bytes| line), "\r\n", "DelimiterInFrame");
    refuses(&Lines::crlf().try_map(Digits::try_from), "\r\n", "DelimiterInFrame");
    let raw = LineRaw::lf().map(|item: LineOrRaw| item);
    assert_eq!(encoded(&raw, LineOrRaw::Raw("a".into())).unwrap(), "a");
}

#[test]
fn the_codec_underneath_can_be_told_to_switch() {
    let mut codec = LineRaw::lf().map(|item: LineOrRaw| matches!(item, LineOrRaw::Raw(_)));
    let mut buffer = BytesMut::from("line\nraw");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(false));
    codec.get_mut().raw(3);
    assert!(codec.get_ref().is_raw());
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(true));
    assert!(!codec.into_inner().is_raw());
}

#[test]
fn a_foreign_codecs_error_is_fatal_and_ends_the_decoder() {
    let mut codec = LinesCodec::new_with_max_length(3).map(|line: String| line);
    let mut buffer = BytesMut::from("a\nlonger\nb\n");
    assert_eq!(codec.decode(&mut buffer).unwrap().unwrap(), "a");
    let error = codec.decode(&mut buffer).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Other(_)));
    assert_eq!((error.is_fatal(), error.offset()), (true, None));
    assert_eq!(error.to_string(), "max line length exceeded");
    buffer.extend_from_slice(b"c\n");
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    assert!(buffer.is_empty());
    assert_eq!(codec.decode_eof(&mut buffer).unwrap(), None);
}

#[test]
fn an_io_error_stays_one() {
    /// The default end of a stream fails with an `io::Error`.
    #[derive(Clone)]
    struct Never;
    impl Decoder for Never {
        type Item = Bytes;
        type Error = io::Error;
        fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
            Ok(None)
        }
    }
    impl Encoder<&'static str> for Never {
        type Error = io::Error;
        fn encode(&mut self, _: &'static str, _: &mut BytesMut) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
    let mut codec = Never.parse::<Digits>();
    let error = codec.decode_eof(&mut BytesMut::from("x")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io(_)));
    assert_eq!(error.to_string(), "bytes remaining on stream");
    let error = codec.encode("x", &mut BytesMut::new()).unwrap_err();
    assert!(
        matches!(error.into_kind(), ErrorKind::Io(error) if error.kind() == io::ErrorKind::Unsupported)
    );
}

#[test]
fn an_error_names_the_failure_and_the_place_and_leads_to_its_cause() {
    let error = Lines::lf().max(1).decode(&mut BytesMut::from("ab\n")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the frame is longer than the limit of 1 bytes, at byte 1 of the stream"
    );
    assert!(error.source().is_none());
    let error = CodecError::parse("no such command");
    assert_eq!(error.to_string(), "no such command");
    assert!(error.source().is_none());
    assert!(!error.is_fatal());
    let own = CodecError::from_any(CodecError::new(ErrorKind::BadLength).at(7).recoverable());
    assert_eq!((own.offset(), own.is_fatal()), (Some(7), false));
}

/// An error with a cause.
#[derive(Debug)]
struct Caused;

impl std::fmt::Display for Caused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("caused")
    }
}

impl Error for Caused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&std::fmt::Error)
    }
}

#[test]
fn an_error_that_prints_as_the_one_it_holds_leads_to_that_ones_cause() {
    let io = CodecError::from(io::Error::other(Caused));
    for error in [io, CodecError::parse(Caused), CodecError::new(ErrorKind::Other(Caused.into()))] {
        assert_eq!(error.to_string(), "caused");
        assert!(error.source().is_some_and(|source| source.is::<std::fmt::Error>()), "{error:?}");
    }
}

#[test]
fn a_float_comes_back_from_json_to_the_last_bit() {
    let mut floats: Json<Lines, f64> = Lines::lf().json();
    let mut buffer = BytesMut::new();
    // Bit patterns from all over the range.
    let patterns = (1..10_000_u64).map(|n| f64::from_bits(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    for float in patterns.filter(|float| float.is_finite()) {
        floats.encode(float, &mut buffer).unwrap();
        assert_eq!(
            floats.decode(&mut buffer).unwrap().map(f64::to_bits),
            Some(float.to_bits()),
            "{float:e}"
        );
    }
}

#[test]
fn values_nested_without_end_are_an_error_and_use_no_more_stack() {
    let mut values = Lines::lf().unlimited().json::<serde_json::Value>();
    let mut buffer = BytesMut::from(&[b"[".repeat(100_000), b"\n7\n".to_vec()].concat()[..]);
    let error = values.decode(&mut buffer).unwrap_err();
    assert!(!error.is_fatal(), "{error}");
    assert_eq!(values.decode(&mut buffer).unwrap(), Some(serde_json::Value::from(7)));
}

#[test]
fn floats_that_json_lacks_are_written_as_null() {
    for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut buffer = BytesMut::new();
        Lines::lf().json::<f64>().encode(float, &mut buffer).unwrap();
        assert_eq!(buffer, "null\n");
        assert_eq!(
            Lines::lf().json::<Option<f64>>().decode(&mut buffer.clone()).unwrap(),
            Some(None)
        );
        assert!(!Lines::lf().json::<f64>().decode(&mut buffer).unwrap_err().is_fatal());
    }
}

#[test]
fn every_codec_can_move_between_threads_and_be_cloned() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    type Function = fn(Bytes) -> Bytes;
    check::<(Lines, Utf8<Lines>, LineRaw, Netstring, LengthPrefixed, RawBytes)>();
    check::<(Map<Lines, Function>, TryMap<Lines, Function>)>();
    // The parsed values need not be either: the codec holds no value.
    check::<Parsed<Lines, std::rc::Rc<std::cell::Cell<u8>>>>();
    fn error<T: Error + Send + Sync + 'static>() {}
    error::<CodecError>();
    assert!(format!("{:?}", Lines::lf().map(|line: Bytes| line)).starts_with("Map"));
}

#[test]
fn wrappers_of_a_codec_print_with_it() {
    let line = || Lines::lf().max(1234);
    let all = [
        format!("{:?}", line().json::<u8>()),
        format!("{:?}", line().postcard::<u8>()),
        format!("{:?}", line().parse::<Digits>()),
        format!("{:?}", line().map(|line: Bytes| line)),
        format!("{:?}", line().try_map(|line: Bytes| Ok::<_, CodecError>(line))),
    ];
    for (name, text) in ["Json", "Postcard", "Parsed", "Map", "TryMap"].iter().zip(&all) {
        assert!(text.starts_with(name) && text.contains("max: 1234"), "{text}");
    }
}
