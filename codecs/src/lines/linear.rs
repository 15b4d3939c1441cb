//! Tests that each byte is searched a bounded number of times, by counting.

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::{Lines, delimiter::work};

const LONG: usize = 256 * 1024;

/// The number of bytes searched while `stream` arrives in pieces of `step` bytes, and of the lines
/// found.
fn searched(mut lines: Lines, stream: &[u8], step: usize) -> (usize, usize) {
    let mut buffer = BytesMut::new();
    let mut found = 0;
    work::take();
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match lines.decode(&mut buffer) {
                Ok(Some(_)) => found += 1,
                Ok(None) => break,
                Err(error) => assert!(!error.is_fatal()),
            }
        }
    }
    (work::take(), found)
}

#[test]
fn a_line_that_comes_byte_by_byte_is_searched_once() {
    for (lines, end) in [(Lines::lf(), "\n"), (Lines::crlf(), "\r\n"), (Lines::any(), "\r\n")] {
        let stream = ["x".repeat(LONG).as_bytes(), end.as_bytes()].concat();
        assert_eq!(searched(lines.unlimited(), &stream, 1), (stream.len(), 1), "{end:?}");
    }
}

#[test]
fn a_long_delimiter_is_searched_once_a_byte_and_its_length_a_call() {
    let stream = ["-".repeat(LONG).as_bytes(), b"--=end=--"].concat();
    let (work, found) = searched(Lines::delimited("--=end=--").unlimited(), &stream, 1);
    assert_eq!(found, 1);
    assert!(work <= stream.len() * 9, "{work}");
}

#[test]
fn a_skipped_line_is_searched_at_most_twice() {
    let stream = ["x".repeat(LONG).as_bytes(), b"\nok\n"].concat();
    for step in [1, 7, 1460, stream.len()] {
        let (work, found) = searched(Lines::lf().max(1000).skip_too_long(), &stream, step);
        assert_eq!(found, 1);
        assert!(work <= 2 * stream.len(), "{work} in steps of {step}");
    }
}

#[test]
fn many_lines_in_one_read_are_searched_once() {
    let stream = b"x\r\n".repeat(LONG / 3);
    let (work, found) = searched(Lines::crlf(), &stream, stream.len());
    assert_eq!((work, found), (stream.len(), LONG / 3));
}
