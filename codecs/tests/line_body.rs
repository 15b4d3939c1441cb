//! Lines that announce bytes: a frame is both, and no byte of a body is taken for a line.

mod support;

use bytes::BytesMut;
use ropewalk_codecs::{LineBody, LineOrRaw, Lines};
use support::{Event, encoded, every_split};
use tokio_util::codec::Decoder;

type Codec = LineBody<fn(&[u8]) -> Option<u64>>;

/// `put <n>` announces n bytes.
fn put(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line.strip_prefix(b"put ")?).ok()?.parse().ok()
}

fn codec(lines: Lines) -> Codec {
    Codec::new(lines, put).max_body(6)
}

/// Checks what comes in every segmentation: `line|body`, and `line>max` where the body is too long.
#[track_caller]
fn gives<const N: usize>(codec: &Codec, stream: &str, expected: [&str; N]) {
    let shown: Vec<_> = every_split(codec, stream.as_bytes())
        .into_iter()
        .map(|event| match event {
            Event::Frame(frame) => match frame.body {
                Ok(body) => format!("{}|{}", frame.line.escape_ascii(), body.escape_ascii()),
                Err(error) => format!("{}>{}", frame.line.escape_ascii(), error.max),
            },
            Event::Error(error) => error,
        })
        .collect();
    assert_eq!(shown, expected, "for {stream:?}");
}

#[test]
fn a_frame_is_a_line_and_what_it_announces_and_then_lines_go_on() {
    let codec = codec(Lines::crlf());
    gives(&codec, "a\r\nput 4\r\n\r\n\r\nb\r\n", ["a|", r"put 4|\r\n\r\n", "b|"]);
    gives(&codec, "put 1\r\nxput 2\r\nyzput 0\r\n\r\n", ["put 1|x", "put 2|yz", "put 0|", "|"]);
    gives(&codec, "put\r\nput -1\r\nput 99999999999999999999\r\n", ["put|", "put -1|", "put 99999999999999999999|"]);
}

#[test]
fn a_body_of_exactly_the_limit_is_delivered_and_a_longer_one_is_dropped_as_it_comes() {
    let codec = codec(Lines::lf());
    gives(&codec, "put 6\nput 1\nput 7\nput 99\na\n", ["put 6|put 1\\n", "put 7>6", "a|"]);
    let all = "put 18446744073709551615";
    gives(&codec, &format!("{all}\nput 1\nx"), [&format!("{all}>6"), "!Truncated { have: 7 }@32"]);
}

#[test]
fn nothing_of_a_body_that_is_dropped_is_held_and_its_line_does_not_wait() {
    let mut codec = codec(Lines::lf());
    let mut buffer = BytesMut::from("put 1000\n");
    assert!(codec.decode(&mut buffer).unwrap().unwrap().body.is_err());
    for _ in 0..999 {
        buffer.extend_from_slice(b"\n");
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert!(buffer.is_empty());
    }
    buffer.extend_from_slice(b"\na\n");
    assert_eq!(codec.decode(&mut buffer).unwrap().unwrap().line, "a");
}

#[test]
fn a_stream_that_ends_within_a_body_is_an_error_and_a_last_line_may_announce_one() {
    gives(&codec(Lines::lf()), "put 5\nabc", ["!Truncated { have: 3 }@9"]);
    gives(&codec(Lines::lf()), "a\nput", ["a|", "!Truncated { have: 3 }@5"]);
    let last = codec(Lines::lf().final_line());
    gives(&last, "put 2\nabput 0", ["put 2|ab", "put 0|"]);
    gives(&last, "put 2", ["!Truncated { have: 0 }@5"]);
}

#[test]
fn a_line_that_is_too_long_announces_nothing() {
    let codec = codec(Lines::lf().max(5).skip_too_long());
    gives(&codec, "put 004\nput 2\n\n\n\n", ["?TooLong { max: 5 }@5", "put 2|\\n\\n", "|"]);
}

#[test]
fn a_line_that_waits_does_not_keep_what_was_read_with_it() {
    let mut codec = Codec::new(Lines::lf(), |_| Some(1));
    let line = "x".repeat(1000);
    let mut buffer = BytesMut::with_capacity(100_000);
    buffer.extend_from_slice(line.as_bytes());
    buffer.extend_from_slice(b"\n");
    assert_eq!(codec.decode(&mut buffer).unwrap(), None);
    // All of the buffer is its own again.
    assert!(buffer.try_reclaim(100_000));
    buffer.extend_from_slice(b"y");
    assert_eq!(codec.decode(&mut buffer).unwrap().unwrap().line, line);
}

#[test]
fn it_encodes_lines_and_bodies() {
    let codec = codec(Lines::crlf());
    assert_eq!(encoded(&codec, "put 2").unwrap(), "put 2\r\n");
    assert_eq!(encoded(&codec, LineOrRaw::Raw("\r\n".into())).unwrap(), "\r\n");
}
