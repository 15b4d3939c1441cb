//! Frames of a type.

use bytes::Bytes;
use bytestring::ByteString;
use ropewalk_codecs::{CodecExt, LengthPrefixed, Lines, Netstring};
use ropewalk_laws::Laws;
use tokio_util::codec::LinesCodec;

use crate::corpus::{short_frames, streams};

/// Digits, and nothing else.
#[derive(Debug, Clone, PartialEq)]
struct Digits(Bytes);

impl TryFrom<Bytes> for Digits {
    type Error = &'static str;

    fn try_from(frame: Bytes) -> Result<Self, Self::Error> {
        if frame.iter().all(u8::is_ascii_digit) { Ok(Self(frame)) } else { Err("not digits") }
    }
}

impl AsRef<[u8]> for Digits {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn digits() -> [Digits; 4] {
    ["0123456789".repeat(4).into(), Bytes::new(), "1".into(), "22".into()].map(Digits)
}

#[test]
fn the_laws_hold_for_lines_as_strings() {
    let strings = ["plain", "smörgås", "", "a\r", "\u{feff}…", "a\r\nb"].map(ByteString::from);
    let bad = [&b"sm\xc3\r\nok\r\n\xffx\r\n"[..], b"\xe2\x80\r\n\xa6\r\n"];
    Laws::new(|| Lines::crlf().max(9).utf8())
        .limit(10)
        .streams(streams())
        .streams(bad)
        .frames(strings.clone())
        .check();
    let laws = Laws::new(|| Lines::any().max(4).skip_too_long().utf8()).limit(5);
    laws.streams(streams()).streams(bad).frames(["a".into()]).frames(strings.clone()).check();
    let laws = Laws::new(|| Lines::lf().final_line().utf8()).final_frame().window(1);
    laws.streams(streams()).streams(bad).frames(strings).check();
}

#[test]
fn the_laws_hold_for_frames_that_are_parsed() {
    let laws = Laws::new(|| Lines::crlf().max(40).parse::<Digits>()).limit(41).window(1);
    let report = laws.streams(streams()).frames(digits()).check();
    assert!(report.overwritten > 100, "{report}");
    let laws = Laws::new(|| Lines::lf().max(3).skip_too_long().parse::<Digits>()).limit(3);
    laws.streams(streams()).frames([Digits("7".into())]).frames(digits()).check();
    Laws::new(|| Netstring::new().max(40).parse::<Digits>())
        .limit(43)
        .streams(streams())
        .frames(digits())
        .check();
    let laws = Laws::new(|| LengthPrefixed::u8().max(40).parse::<Digits>()).limit(40);
    laws.streams(streams()).frames(digits()).check();
}

#[test]
fn the_laws_hold_for_frames_that_go_through_a_function() {
    let double = |line: Bytes| [&line[..], &line[..]].concat();
    Laws::new(move || Lines::lf().max(6).map(double))
        .limit(6)
        .streams(streams())
        .frames_as(short_frames(), move |line| double(line.clone()))
        .check();
    let short = |line: Bytes| if line.len() < 4 { Ok(line) } else { Err("long") };
    Laws::new(move || Lines::crlf().max(6).skip_too_long().try_map(short))
        .limit(7)
        .streams(streams())
        .frames(["a", "bb", "", "c\r"].map(Bytes::from))
        .check();
    // One around the other.
    let laws = Laws::new(move || Netstring::new().try_map(short).map(double).parse::<Bytes>());
    laws.streams(streams()).streams(["2:ab,5:abcde,1:a,;"]).check();
}

#[test]
fn the_laws_hold_for_a_foreign_codec() {
    // It drops a lone CR at the end of the stream silently, so no CR comes at the start of a line.
    Laws::new(|| LinesCodec::new().map(|line: String| line))
        .streams([&b"one\ntwo\r\n\n\nthree"[..], b"one\nt\xffo\nthree\n"])
        .frames(["plain", "", "x"].map(String::from))
        .final_frame()
        .variants(0)
        .check();
}

#[test]
fn the_laws_hold_for_json() {
    let values = [
        vec![],
        vec!["plain".to_owned()],
        vec!["\r\n\0".into(), "smörgås".into()],
        vec!["x".repeat(40)],
    ];
    let streams_of_json =
        ["[]\n[\"a\"]\n{}\nnull\n[\n", "[1]\n[\"a\",\"b\"]\n\n[] \n [\"\\u0041\"]\n"];
    Laws::new(|| Lines::lf().max(60).json::<Vec<String>>())
        .limit(60)
        .streams(streams())
        .streams(streams_of_json)
        .frames(values.clone())
        .check();
    let laws = Laws::new(|| LengthPrefixed::u16().json::<Vec<String>>());
    laws.streams(streams()).frames(values).check();
}

#[test]
fn the_laws_hold_for_postcard() {
    type Value = (u32, String, Option<bool>);
    let values: [Value; 4] = [
        (0, String::new(), None),
        (7, "\r\n".into(), Some(true)),
        (u32::MAX, "x".repeat(50), None),
        (1, "é".into(), None),
    ];
    Laws::new(|| LengthPrefixed::u16().max(60).postcard::<Value>())
        .limit(61)
        .streams(streams())
        .streams([&b"\0\x03\0\0\0\0\x02\0\0\0\0\0\x04\0\0\0\0"[..]])
        .frames(values.clone())
        .check();
    Laws::new(|| Netstring::new().postcard::<Value>()).streams(streams()).frames(values).check();
}
