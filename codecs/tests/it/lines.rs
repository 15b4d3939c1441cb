//! Lines: their ends, their limit, what is refused.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use ropewalk_codecs::{ErrorKind, Lines};
use tokio_util::codec::{Decoder, Encoder, Framed, FramedRead};

use crate::support::{encoded, gives, refuses};

#[test]
fn lines_end_with_cr_lf_and_a_lone_cr_or_lf_is_data() {
    let crlf = Lines::crlf();
    gives(&crlf, "a\nb\r\n", [r"a\nb"]);
    gives(&crlf, "a\rb\r\n", [r"a\rb"]);
    gives(&crlf, "a\r\r\nb\r\n", [r"a\r", "b"]);
    gives(&crlf, "\n\r\r\n", [r"\n\r"]);
}

#[test]
fn an_empty_line_is_a_line() {
    gives(&Lines::crlf(), "\r\n", [""]);
    gives(&Lines::crlf().max(0), "\r\n\r\n", ["", ""]);
    gives(&Lines::lf(), "\n\na\n", ["", "", "a"]);
    gives(&Lines::any(), "\r\n\n", ["", ""]);
    gives(&Lines::delimited(";;"), ";;;;", ["", ""]);
}

#[test]
fn lf_keeps_the_cr_and_any_takes_one_off() {
    gives(&Lines::lf(), "a\r\nb\n", [r"a\r", "b"]);
    gives(&Lines::any(), "a\r\nb\nc\r\r\nd\re\n", ["a", "b", r"c\r", r"d\re"]);
}

#[test]
fn a_delimiter_may_be_any_bytes() {
    gives(&Lines::delimited("\0"), "a\0b\0", ["a", "b"]);
    gives(&Lines::delimited("--"), "a-b--c---d--", ["a-b", "c", "-d"]);
    gives(&Lines::delimited("aab"), "aaab-aab", ["a", "-"]);
    gives(&Lines::delimited("\r\n"), "a\nb\r\n", [r"a\nb"]);
    gives(&Lines::delimited(b"\n"), "a\r\n", [r"a\r"]);
}

#[test]
#[should_panic(expected = "must not be empty")]
fn an_empty_delimiter_is_refused_when_the_codec_is_built() {
    let _ = Lines::delimited("");
}

/// The boundary at four bytes. Where an unfinished line of five waits in other implementations
/// until it is seven long, here it is too long whether or not its end has come.
#[test]
fn exactly_the_limit_is_a_line_and_one_more_is_too_long() {
    let four = Lines::crlf().max(4);
    gives(&four, "xxxx\r\n", ["xxxx"]);
    gives(&four, "xxxxx\r\n", ["!TooLong { max: 4 }@4"]);
    gives(&four, "xxxx", ["!Truncated { have: 4 }@4"]);
    gives(&four, "xxxxx", ["!TooLong { max: 4 }@4"]);
    gives(&four, "xxxxxx", ["!TooLong { max: 4 }@4"]);
    gives(&four, "xxxx\r", ["!Truncated { have: 5 }@5"]);
    gives(&four, "xxxx\rz", ["!TooLong { max: 4 }@4"]);
    gives(&four, "xxxxx\r", ["!TooLong { max: 4 }@4"]);
    gives(&four, "a\r\nxxxxx\r\nb\r\n", ["a", "!TooLong { max: 4 }@7"]);
    gives(&four, "xxx\r\r\n", [r"xxx\r"]);
    gives(&four, "xxxx\r\r\n", ["!TooLong { max: 4 }@4"]);
    gives(&four, "xxxx\n\r\n", ["!TooLong { max: 4 }@4"]);
}

#[test]
fn the_limit_counts_content_whatever_the_delimiter() {
    let any = Lines::any().max(4);
    gives(&any, "xxxx\r\nxxxx\n", ["xxxx", "xxxx"]);
    gives(&any, "xxxx\rz\n", ["!TooLong { max: 4 }@4"]);
    gives(&any, "xxxxx\n", ["!TooLong { max: 4 }@4"]);
    gives(&Lines::lf().max(4), "xxxx\nxxxx\r\n", ["xxxx", "!TooLong { max: 4 }@9"]);
    let long = Lines::delimited("--=--").max(4);
    gives(&long, "xxxx--=--", ["xxxx"]);
    gives(&long, "xxxx--=-", ["!Truncated { have: 8 }@8"]);
    gives(&long, "xxxx--=x", ["!TooLong { max: 4 }@4"]);
    gives(&long, "xx--=--=--", ["xx", "!Truncated { have: 3 }@10"]);
    gives(&long, "xx-----=--", ["!TooLong { max: 4 }@4"]);
    gives(&long, "x--x--=--", ["x--x"]);
}

#[test]
fn the_default_limit_is_16_kib_and_no_limit_must_be_asked_for() {
    for (over, is_line) in [(0, true), (1, false)] {
        let mut buffer = BytesMut::from(&*vec![b'x'; 16 * 1024 + over]);
        buffer.extend_from_slice(b"\r\n");
        assert_eq!(Lines::crlf().decode(&mut buffer.clone()).is_ok(), is_line);
        assert!(Lines::crlf().unlimited().decode(&mut buffer).unwrap().is_some());
    }
    // LR18, LR10: two over without a delimiter; exactly the limit and half a delimiter.
    let mut buffer = BytesMut::from(&*vec![b'x'; 16 * 1024 + 2]);
    assert!(Lines::crlf().decode(&mut buffer).is_err());
    let mut buffer = BytesMut::from(&*vec![b'x'; 16 * 1024]);
    buffer.extend_from_slice(b"\r");
    assert_eq!(Lines::crlf().decode(&mut buffer).unwrap(), None);
}

#[test]
fn a_too_long_line_can_be_skipped_and_the_lines_after_it_come() {
    let four = Lines::crlf().max(4).skip_too_long();
    gives(&four, "a\r\nxxxxx\r\nb\r\n", ["a", "?TooLong { max: 4 }@7", "b"]);
    gives(&four, "xxxxxx\rx\nx\r\r\nb\r\n\r\n", ["?TooLong { max: 4 }@4", "b", ""]);
    gives(
        &four,
        "xxxxx\r\nxxxxx\r\nb\r\n",
        ["?TooLong { max: 4 }@4", "?TooLong { max: 4 }@11", "b"],
    );
    // The stream ends within it: that line has had its error.
    gives(&four, "xxxxxxxx", ["?TooLong { max: 4 }@4"]);
    gives(&four, "xxxxxxxx\r", ["?TooLong { max: 4 }@4"]);
    gives(&four.final_line(), "xxxxxxxx\r", ["?TooLong { max: 4 }@4"]);
    gives(&Lines::any().max(1).skip_too_long(), "xx\r\ny\n", ["?TooLong { max: 1 }@1", "y"]);
    gives(&Lines::lf().max(0).skip_too_long(), "xx\n\n", ["?TooLong { max: 0 }@0", ""]);
    let long = Lines::delimited("--=--").max(4).skip_too_long();
    gives(&long, "xxxxx--=--=--y--=--", ["?TooLong { max: 4 }@4", "=--y"]);
}

#[test]
fn a_skipped_line_is_not_kept() {
    let mut lines = Lines::crlf().max(4).skip_too_long();
    let mut buffer = BytesMut::new();
    let mut errors = 0;
    for _ in 0..10_000 {
        buffer.extend_from_slice(b"xxx\r");
        while !matches!(lines.decode(&mut buffer), Ok(None)) {
            errors += 1;
        }
        assert!(buffer.len() <= 5, "{}", buffer.len());
    }
    assert_eq!(errors, 1);
    // Where it can't be half a delimiter, one byte: it shows that the line goes on.
    buffer.extend_from_slice(b"xxx");
    assert!(matches!(lines.decode(&mut buffer), Ok(None)));
    assert_eq!(buffer, "x");
    buffer.extend_from_slice(b"\r\n");
    assert!(matches!(lines.decode(&mut buffer), Ok(None)));
    assert_eq!(buffer, "");
}

#[test]
fn an_unfinished_line_at_the_end_is_truncated_unless_it_is_asked_for() {
    gives(&Lines::lf(), "a\nbc", ["a", "!Truncated { have: 2 }@4"]);
    let last = Lines::crlf().max(4).final_line();
    gives(&last, "a\r\nbc", ["a", "bc"]);
    gives(&last, "a\r\n", ["a"]);
    gives(&last, "", []);
    gives(&last, "abc\r", [r"abc\r"]);
    // At the end of the stream the CR is no longer half a delimiter.
    gives(&last, "abcd\r", ["!TooLong { max: 4 }@4"]);
    gives(&last.skip_too_long(), "abcd\r", ["?TooLong { max: 4 }@4"]);
}

/// With `any` the CR is taken off whether or not an LF comes behind it.
#[test]
fn an_unfinished_line_of_any_is_delivered_without_the_cr_at_its_end() {
    let last = Lines::any().max(4).final_line();
    gives(&last, "a\nbc", ["a", "bc"]);
    gives(&last, "a\r\nbc\r", ["a", "bc"]);
    gives(&last, "abcd\r", ["abcd"]);
    gives(&last, "abc\r\r", [r"abc\r"]);
    gives(&last, "abcde\r", ["!TooLong { max: 4 }@4"]);
    gives(&last, "abcd\r\r", ["!TooLong { max: 4 }@4"]);
    gives(&last, "a\n\r", ["a", ""]);
    gives(&last, "a\n", ["a"]);
    gives(&last, "\r", [""]);
    gives(&last.clone().utf8(), "a\r", ["a"]);
    gives(&last.skip_too_long(), "abcdefgh\r", ["?TooLong { max: 4 }@4"]);
    // Unfinished lines that were not asked for are truncated, with all there is of them.
    gives(&Lines::any(), "ab\r", ["!Truncated { have: 3 }@3"]);
}

#[test]
fn a_frame_that_would_be_read_as_two_is_refused() {
    for frame in ["inj\r\nected", "\r\n", "a\r\n"] {
        refuses(&Lines::crlf(), frame, "DelimiterInFrame");
        refuses(&Lines::lf(), frame, "DelimiterInFrame");
        refuses(&Lines::any(), frame, "DelimiterInFrame");
    }
    // Of the longest length allowed it is not too long.
    refuses(&Lines::lf().max(3), "a\nb", "DelimiterInFrame");
    assert_eq!(encoded(&Lines::crlf(), "a\nb\r").unwrap(), "a\nb\r\r\n");
    assert_eq!(encoded(&Lines::lf(), "a\r").unwrap(), "a\r\n");
    assert_eq!(encoded(&Lines::any(), "a\rb").unwrap(), "a\rb\n");
}

#[test]
fn a_frame_whose_end_runs_into_the_delimiter_is_refused() {
    refuses(&Lines::any(), "a\r", "DelimiterInFrame");
    refuses(&Lines::delimited("aa"), "xa", "DelimiterInFrame");
    refuses(&Lines::delimited("abab"), "x-ab", "DelimiterInFrame");
    assert_eq!(encoded(&Lines::delimited("aa"), "ax").unwrap(), "axaa");
    assert_eq!(encoded(&Lines::delimited("abab"), "xaba").unwrap(), "xabaabab");
    assert_eq!(encoded(&Lines::delimited("--=--"), "x").unwrap(), "x--=--");
    refuses(&Lines::delimited("--=--"), "x--=", "DelimiterInFrame");
}

#[test]
fn a_frame_over_the_limit_is_refused() {
    refuses(&Lines::crlf().max(4), "xxxxx", "TooLong { max: 4 }");
    assert_eq!(encoded(&Lines::crlf().max(4), "xxxx").unwrap(), "xxxx\r\n");
}

#[test]
fn anything_that_gives_bytes_can_be_encoded() {
    let mut lines = Lines::lf();
    let mut out = BytesMut::new();
    lines.encode("str", &mut out).unwrap();
    lines.encode(String::from("string"), &mut out).unwrap();
    lines.encode(Bytes::from_static(b"bytes"), &mut out).unwrap();
    lines.encode(b"array", &mut out).unwrap();
    lines.encode(vec![b'v', b'e', b'c'], &mut out).unwrap();
    assert_eq!(out, "str\nstring\nbytes\narray\nvec\n");
}

#[test]
fn strings_are_lines_and_an_error_names_the_byte_that_is_not_utf_8() {
    let strings = Lines::crlf().utf8();
    gives(&strings, "smörgås\r\n", [r"sm\xc3\xb6rg\xc3\xa5s"]);
    gives(&strings, b"ab\r\nc\xffd\r\ne\r\n", ["ab", "?InvalidUtf8@5", "e"]);
    // A character cut by the end of its line begins where the error is.
    gives(&strings, b"c\xc3\r\n", ["?InvalidUtf8@1"]);
    gives(&Lines::lf().final_line().utf8(), b"a\nb\xff", ["a", "?InvalidUtf8@3"]);
    gives(
        &Lines::lf().max(2).skip_too_long().utf8(),
        b"abc\n\xff\n",
        ["?TooLong { max: 2 }@2", "?InvalidUtf8@4"],
    );
    assert_eq!(encoded(&strings, "å").unwrap(), "å\r\n");
    refuses(&strings, "å\r\n", "DelimiterInFrame");
}

/// LineReceiver's and LineOnlyReceiver's own vectors that are about bytes. A too long line ends the
/// stream here or is skipped to its delimiter; it never swallows the lines before it, and never
/// leaves its tail behind as a line.
#[test]
fn the_line_vectors_of_twisted() {
    let six = Lines::crlf().max(6);
    let too_long = "!TooLong { max: 6 }@6";
    gives(&six, "x".repeat(14), [too_long]); // LR14
    gives(&six, format!("x\r\n{}", "x".repeat(14)), ["x", "!TooLong { max: 6 }@9"]); // LR15
    gives(&six, format!("{0}\r\n{0}", "x".repeat(14)), [too_long]); // LR16
    gives(&six, format!("{0}\r\n{0}\r\n", "x".repeat(14)), [too_long]); // LR17
    let skip = six.skip_too_long();
    let both = ["?TooLong { max: 6 }@6", "?TooLong { max: 6 }@22"];
    gives(&skip, format!("{0}\r\n{0}\r\n", "x".repeat(14)), both); // LR17
    gives(&Lines::lf().max(4), "xxx\nxxx\n", ["xxx", "xxx"]); // LR9
    gives(&Lines::lf().max(64), format!("{}\r\nr", "x".repeat(66)), ["!TooLong { max: 64 }@64"]); // LO2, LR8
    gives(
        &Lines::lf().max(64),
        "foo\n    bleakness\n    desolation\n    plastic forks\n    ",
        [
            "foo",
            "    bleakness",
            "    desolation",
            "    plastic forks",
            "!Truncated { have: 4 }@55",
        ],
    ); // LO1
}

#[test]
fn a_short_line_is_copied_and_a_long_one_is_not() {
    for (size, shared) in [(512, false), (513, true)] {
        let mut buffer = BytesMut::from(&*vec![b'x'; size]);
        buffer.extend_from_slice(b"\n");
        let start = buffer.as_ptr();
        let line = Lines::lf().decode(&mut buffer).unwrap().unwrap();
        assert_eq!(line.as_ptr() == start, shared, "{size}");
    }
}

#[test]
fn bytes_taken_from_under_the_codec_do_not_make_it_panic() {
    let mut lines = Lines::crlf();
    let mut buffer = BytesMut::from("half a line");
    assert_eq!(lines.decode(&mut buffer).unwrap(), None);
    buffer.clear();
    buffer.extend_from_slice(b"a");
    assert_eq!(lines.decode(&mut buffer).unwrap(), None);
}

#[tokio::test]
async fn lines_work_in_framed_and_framed_read() {
    let (client, server) = tokio::io::duplex(7);
    let mut client = Framed::new(client, Lines::crlf());
    let mut server = Framed::new(server, Lines::crlf());
    let send = async {
        client.send("a line longer than the pipe").await.unwrap();
        client.send("").await.unwrap();
        drop(client);
    };
    let receive = async {
        assert_eq!(server.next().await.unwrap().unwrap(), "a line longer than the pipe");
        assert_eq!(server.next().await.unwrap().unwrap(), "");
        assert!(server.next().await.is_none());
    };
    futures::join!(send, receive);

    let mut read = FramedRead::new(&b"whole\nhal"[..], Lines::lf());
    assert_eq!(read.next().await.unwrap().unwrap(), "whole");
    let error = read.next().await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Truncated { have: 3, .. }));
    assert!(read.next().await.is_none());
}
