//! Lines and raw sections: no byte is lost or delivered twice over any number of switches.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{CodecError, LineOrRaw, LineRaw, Lines};
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{Event, encoded, every_split_by, refuses};

/// Every way to switch.
const SWITCHES: [fn(&mut LineRaw); 4] =
    [|codec| codec.raw(1), |codec| codec.raw_whole(1), LineRaw::raw_until_lines, LineRaw::lines];

/// What an application says to the codec after an item, which may depend on what came before.
type React = fn(&mut LineRaw, &LineOrRaw, &mut u64);

/// A codec whose application answers each item at once.
#[derive(Clone)]
struct Switching {
    codec: LineRaw,
    react: React,
    state: u64,
}

impl Switching {
    fn answer(
        &mut self,
        item: Result<Option<LineOrRaw>, CodecError>,
    ) -> Result<Option<LineOrRaw>, CodecError> {
        if let Ok(Some(item)) = &item {
            (self.react)(&mut self.codec, item, &mut self.state);
        }
        item
    }
}

impl Decoder for Switching {
    type Item = LineOrRaw;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let item = self.codec.decode(src);
        self.answer(item)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let item = self.codec.decode_eof(src);
        self.answer(item)
    }
}

/// Raw chunks that follow each other as one.
fn join(events: Vec<Event<LineOrRaw>>) -> Vec<Event<LineOrRaw>> {
    let mut joined = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(Event::Frame(LineOrRaw::Raw(raw))), Event::Frame(LineOrRaw::Raw(next))) => {
                assert!(!next.is_empty() && next.len() <= 64 * 1024);
                *raw = [&raw[..], &next[..]].concat().into();
            }
            (_, event) => joined.push(event),
        }
    }
    joined
}

/// Checks what comes in every segmentation: `L` a line, `R` raw bytes.
#[track_caller]
fn gives<const N: usize>(codec: LineRaw, react: React, stream: &str, expected: [&str; N]) {
    let codec = Switching { codec, react, state: 0 };
    let shown: Vec<_> = every_split_by(&codec, stream.as_bytes(), join)
        .into_iter()
        .map(|event| match event {
            Event::Frame(LineOrRaw::Line(line)) => format!("L{}", line.escape_ascii()),
            Event::Frame(LineOrRaw::Raw(raw)) => format!("R{}", raw.escape_ascii()),
            Event::Error(error) => error,
        })
        .collect();
    assert_eq!(shown, expected, "for {stream:?}");
}

/// `raw <n>` makes the next n bytes raw.
fn raw_n(codec: &mut LineRaw, item: &LineOrRaw, _: &mut u64) {
    if let LineOrRaw::Line(line) = item
        && let Some(n) = line.strip_prefix(b"raw ")
    {
        codec.raw(String::from_utf8_lossy(n).parse().expect("a number"));
    }
}

#[test]
fn the_bytes_after_the_line_that_switched_are_raw_and_then_lines_go_on() {
    gives(
        LineRaw::crlf(),
        raw_n,
        "raw 7\r\na\r\nb\r\n\r\nc\r\n",
        ["Lraw 7", r"Ra\r\nb\r\n\r", r"L\nc"],
    );
    gives(LineRaw::crlf(), raw_n, "raw 5\r\nhello\r\nget\r\n", ["Lraw 5", "Rhello", "L", "Lget"]);
    gives(
        LineRaw::lf(),
        raw_n,
        "raw 1\n\nraw 2\n\n\n\n",
        ["Lraw 1", r"R\n", "Lraw 2", r"R\n\n", "L"],
    );
}

#[test]
fn a_raw_section_of_no_bytes_delivers_nothing() {
    gives(LineRaw::lf(), raw_n, "raw 0\nraw 0\na\n", ["Lraw 0", "Lraw 0", "La"]);
    let mut codec = LineRaw::lf();
    codec.raw(0);
    assert!(!codec.is_raw());
}

#[test]
fn a_section_may_be_longer_than_a_line_and_than_a_chunk() {
    let long = "y".repeat(70_000);
    let mut codec = LineRaw::lf().max(8);
    codec.raw(70_000);
    let mut buffer = BytesMut::from(&*format!("{long}line\n"));
    let mut sizes = Vec::new();
    while let Some(item) = codec.decode(&mut buffer).unwrap() {
        match item {
            LineOrRaw::Raw(raw) => sizes.push(raw.len()),
            LineOrRaw::Line(line) => assert_eq!(line, "line"),
        }
    }
    assert_eq!(sizes, [65_536, 4_464]);
    assert!(buffer.is_empty());
}

/// `raw <n>` makes the next n bytes a raw section in one piece.
fn whole_n(codec: &mut LineRaw, item: &LineOrRaw, _: &mut u64) {
    if let LineOrRaw::Line(line) = item
        && let Some(n) = line.strip_prefix(b"raw ")
    {
        codec.raw_whole(String::from_utf8_lossy(n).parse().expect("a number"));
    }
}

#[test]
fn a_section_that_is_wanted_whole_comes_in_one_piece_however_it_was_received() {
    let codec = Switching { codec: LineRaw::crlf(), react: whole_n, state: 0 };
    let stream = b"raw 7\r\na\r\nb\r\n\r\nc\r\nraw 0\r\nraw 3\r\nabc";
    // As it is, nothing joined.
    let events = every_split_by(&codec, stream, |events| events);
    let line = |line: &'static str| Event::Frame(LineOrRaw::Line(line.into()));
    let raw = |raw: &'static str| Event::Frame(LineOrRaw::Raw(raw.into()));
    let lines =
        [line("raw 7"), raw("a\r\nb\r\n\r"), line("\nc"), line("raw 0"), line("raw 3"), raw("abc")];
    assert_eq!(events, lines);
}

#[test]
fn a_whole_section_may_be_longer_than_a_chunk_and_is_dropped_if_the_stream_ends_within_it() {
    let mut codec = LineRaw::lf().max(8);
    codec.raw_whole(70_000);
    assert!(codec.is_raw());
    let mut buffer = BytesMut::from(&*"y".repeat(69_999));
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    buffer.extend_from_slice(b"yline\n");
    let Some(LineOrRaw::Raw(raw)) = codec.decode(&mut buffer).unwrap() else {
        panic!("no section")
    };
    assert_eq!(raw.len(), 70_000);
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Line("line".into())));

    gives(LineRaw::lf(), whole_n, "raw 5\nabc", ["Lraw 5", "!Truncated { have: 3 }@9"]);
    gives(LineRaw::lf(), whole_n, "raw 5\n", ["Lraw 5", "!Truncated { have: 0 }@6"]);
}

#[test]
fn the_end_of_the_stream_within_a_section_says_how_much_of_it_came() {
    let cut = ["Lraw 5", "Rabc", "!Truncated { have: 3 }@9"];
    gives(LineRaw::lf(), raw_n, "raw 5\nabc", cut);
    gives(LineRaw::lf(), raw_n, "raw 5\n", ["Lraw 5", "!Truncated { have: 0 }@6"]);
    gives(LineRaw::lf(), raw_n, "raw 3\nabc", ["Lraw 3", "Rabc"]);
    gives(LineRaw::lf(), raw_n, "raw 3\nabcd", ["Lraw 3", "Rabc", "!Truncated { have: 1 }@10"]);
}

#[test]
fn everything_may_be_raw_until_told_otherwise() {
    let until: React = |codec, item, _| match item {
        LineOrRaw::Line(line) if line == "DATA" => codec.raw_until_lines(),
        _ => {}
    };
    gives(LineRaw::lf(), until, "a\nDATA\nx\ny\nz", ["La", "LDATA", r"Rx\ny\nz"]);

    let mut codec = LineRaw::lf();
    codec.raw_until_lines();
    assert!(codec.is_raw());
    let mut buffer = BytesMut::from("raw\nmore");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Raw("raw\nmore".into())));
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    codec.lines();
    buffer.extend_from_slice(b"line\n");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Line("line".into())));
}

#[test]
fn a_switch_amid_an_unfinished_line_begins_at_its_first_byte() {
    let mut codec = LineRaw::crlf();
    let mut buffer = BytesMut::from("partial\r");
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    codec.raw(4);
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Raw("part".into())));
    buffer.extend_from_slice(b"\n");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Line("ial".into())));
}

#[test]
fn a_switch_amid_a_section_ends_it() {
    let mut codec = LineRaw::lf();
    codec.raw(100);
    let mut buffer = BytesMut::from("abc");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Raw("abc".into())));
    codec.lines();
    buffer.extend_from_slice(b"line\n");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Line("line".into())));
    assert_eq!(codec.decode_eof(&mut buffer).unwrap(), None);
}

#[test]
fn raw_after_a_skipped_line_begins_where_that_line_ends() {
    let mut codec = LineRaw::new(Lines::crlf().max(2).skip_too_long());
    let mut buffer = BytesMut::from("too lo");
    assert!(!codec.decode(&mut buffer).unwrap_err().is_fatal());
    codec.raw(3);
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    buffer.extend_from_slice(b"ng\r\nrawok\r\n");
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Raw("raw".into())));
    assert_eq!(codec.decode(&mut buffer).unwrap(), Some(LineOrRaw::Line("ok".into())));
}

#[test]
fn a_skipped_line_that_never_ends_leaves_nothing_behind_in_any_mode() {
    for switch in SWITCHES {
        let mut codec = LineRaw::new(Lines::delimited("aa").max(0).skip_too_long());
        let mut buffer = BytesMut::from("b");
        assert!(codec.decode(&mut buffer).is_err_and(|error| !error.is_fatal()));
        switch(&mut codec);
        buffer.extend_from_slice(b"ca");
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert_eq!(buffer, "a", "it may be half a delimiter");
        drop(codec.decode_eof(&mut buffer));
        assert_eq!(buffer, "");
    }
}

#[test]
fn a_switch_does_not_wake_a_fused_decoder() {
    let mut codec = LineRaw::lf().max(1);
    let mut buffer = BytesMut::from("abc\nd");
    assert!(codec.decode(&mut buffer).unwrap_err().is_fatal());
    for switch in SWITCHES {
        switch(&mut codec);
        buffer.extend_from_slice(b"e\n");
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert!(buffer.is_empty());
        assert_eq!(codec.decode_eof(&mut buffer).unwrap(), None);
    }
}

#[test]
fn it_encodes_lines_and_raw_bytes() {
    let codec = LineRaw::crlf().max(10);
    assert_eq!(encoded(&codec, "STORED").unwrap(), "STORED\r\n");
    assert_eq!(encoded(&codec, Bytes::from("END")).unwrap(), "END\r\n");
    assert_eq!(encoded(&codec, LineOrRaw::Line("END".into())).unwrap(), "END\r\n");
    let raw = "raw\r\nand longer than a line";
    assert_eq!(encoded(&codec, LineOrRaw::Raw(raw.into())).unwrap(), raw);
    assert_eq!(encoded(&codec, LineOrRaw::Raw(Bytes::new())).unwrap(), "");
    refuses(&codec, LineOrRaw::Line("a\r\nb".into()), "DelimiterInFrame");
    refuses(&codec, "a\r\nb", "DelimiterInFrame");
    refuses(&codec, "12345678901", "TooLong { max: 10 }");
}

#[test]
fn encoded_frames_come_back_over_many_switches() {
    let mut codec = LineRaw::crlf();
    let mut stream = BytesMut::new();
    let mut expected = Vec::new();
    for n in 0..30 {
        let raw: Bytes = b"\r\n\0\r".iter().copied().cycle().take(n).collect();
        for item in [LineOrRaw::Line(format!("raw {n}").into()), LineOrRaw::Raw(raw)] {
            codec.encode(item.clone(), &mut stream).unwrap();
            if item != LineOrRaw::Raw(Bytes::new()) {
                expected.push(Event::Frame(item));
            }
        }
    }
    let codec = Switching { codec, react: raw_n, state: 0 };
    assert_eq!(every_split_by(&codec, &stream, join), expected);
}

/// `len N` and an empty line, then N raw bytes. Twisted's test drops just the first 65 bytes of the
/// line that is too long and gives `67890` as a line; here the line is skipped to its end.
#[test]
fn line_receivers_buffer_test() {
    let react: React = |codec, item, length| match item {
        LineOrRaw::Line(line) if line.is_empty() => codec.raw(*length),
        LineOrRaw::Line(line) => {
            if let Some(n) = line.strip_prefix(b"len ") {
                *length = String::from_utf8_lossy(n).parse().unwrap();
            }
        }
        LineOrRaw::Raw(_) => {}
    };
    let stream = format!(
        "len 10\n\n0123456789len 5\n\n1234\nlen 20\nfoo 123\n\n0123456789\n012345678len 0\nfoo 5\n\n{}\nlen 1\n\na",
        "1234567890".repeat(7)
    );
    let lines = LineRaw::new(Lines::lf().max(64).skip_too_long());
    gives(
        lines,
        react,
        &stream,
        [
            "Llen 10",
            "L",
            "R0123456789",
            "Llen 5",
            "L",
            r"R1234\n",
            "Llen 20",
            "Lfoo 123",
            "L",
            r"R0123456789\n012345678",
            "Llen 0",
            "Lfoo 5",
            "L",
            "?TooLong { max: 64 }@143",
            "Llen 1",
            "L",
            "Ra",
        ],
    ); // LR1
}

#[test]
fn line_receivers_raw_pausing_test() {
    let react: React = |codec, item, length| match item {
        LineOrRaw::Line(line) if line == "rawpause" => codec.raw(*length),
        LineOrRaw::Line(line) if line == "len 5" => *length = 5,
        _ => {}
    };
    let stream = "twiddle1\ntwiddle2\nlen 5\nrawpause\n12345twiddle3\n";
    let expected = ["Ltwiddle1", "Ltwiddle2", "Llen 5", "Lrawpause", "R12345", "Ltwiddle3"];
    gives(LineRaw::lf(), react, stream, expected); // LR3; pausing is not asking for the next item
}

/// LR7: each line is followed by one raw byte, very often, in one read.
#[test]
fn many_switches_in_one_read_need_no_stack() {
    let mut codec = LineRaw::lf();
    let mut buffer = BytesMut::from(&*"x\nx".repeat(100_000));
    let mut lines = 0;
    while let Some(item) = codec.decode(&mut buffer).unwrap() {
        match item {
            LineOrRaw::Line(line) => {
                assert_eq!(line, "x");
                lines += 1;
                codec.raw(1);
            }
            LineOrRaw::Raw(raw) => assert_eq!(raw, "x"),
        }
    }
    assert_eq!(lines, 100_000);
}
