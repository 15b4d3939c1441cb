//! PROXY headers: those that are accepted, those that are refused, and those that are written.

mod peer;
mod v1;
mod v2;
mod written;

use ropewalk_middleware::proxy::{Header, HeaderError, ParseStatus, parse};

/// What bytes begin with, if it is whole or wrong; the laws hold for every prefix.
#[track_caller]
fn parsed(bytes: &[u8]) -> Option<Result<(Header, usize), HeaderError>> {
    let (mut decided, mut least) = (None, 0);
    for at in 0..=bytes.len() {
        match (parse(&bytes[..at]), &decided) {
            (Ok(ParseStatus::Incomplete { need }), None) => {
                assert!(need > 0, "at {at} nothing is needed");
                least = least.max(at + need);
            }
            (Ok(ParseStatus::Complete { header, len }), None) => {
                assert_eq!(len, at, "it is known as soon as it has come");
                assert!(least <= len, "{least} bytes were asked for, of {len}");
                decided = Some(Ok((header, len)));
            }
            (Ok(ParseStatus::Complete { header, len }), Some(Ok(before))) => {
                assert_eq!((header, len), *before, "at {at}");
            }
            (Err(error), None) => decided = Some(Err(error)),
            (Err(error), Some(Err(before))) => assert_eq!(error, *before, "at {at}"),
            (now, Some(before)) => panic!("at {at} it is {now:?}, and was {before:?}"),
        }
    }
    decided
}

/// A header that is the whole of the bytes.
#[track_caller]
fn good(bytes: &[u8]) -> Header {
    let (header, len) =
        parsed(bytes).expect("it is whole").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(len, bytes.len());
    header
}

#[track_caller]
fn bad(bytes: &[u8]) -> HeaderError {
    parsed(bytes).expect("it is decided").expect_err("it is refused")
}

fn source(header: &Header) -> Option<String> {
    header.source().map(ToString::to_string)
}

fn destination(header: &Header) -> Option<String> {
    header.destination().map(ToString::to_string)
}

#[test]
fn a_stream_with_neither_signature_is_refused_at_the_first_wrong_byte() {
    for (bytes, at) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"\x16\x03\x01\x02\0", 1),
        (b"NOTPROXY ", 1),
        (b"NEEDMOREDATA", 1),
        (&[0; 16], 1),
        (b"POST / HTTP/1.1\r\n", 2),
        (b"proxy TCP4", 1),
        (b"PROXYxTCP4 1.1.1.1 2.2.2.2 1 2\r\n", 6),
        (b"PROXY\r\n", 6),
        (b"\r\n\r\n\0\r\nQUIT\r", 12),
        (b"\r\n\r\n\r\n", 5),
    ] {
        assert_eq!(bad(bytes), HeaderError::NoHeader);
        assert!(matches!(parse(&bytes[..at - 1]), Ok(ParseStatus::Incomplete { .. })), "{bytes:?}");
        assert_eq!(parse(&bytes[..at]), Err(HeaderError::NoHeader), "{bytes:?}");
    }
}

#[test]
fn of_nothing_the_shortest_header_is_awaited() {
    assert_eq!(parse(b""), Ok(ParseStatus::Incomplete { need: 15 }));
    assert_eq!(parse(b"P"), Ok(ParseStatus::Incomplete { need: 14 }));
    assert_eq!(parse(b"\r"), Ok(ParseStatus::Incomplete { need: 15 }));
}

#[test]
fn an_error_describes_the_fault() {
    for (error, text) in [
        (bad(b"HELO"), "no PROXY header: the peer does not begin with one"),
        (bad(b"PROXY TCP5 a\r\n"), "bad PROXY header: neither TCP4, TCP6 nor UNKNOWN"),
        (bad(b"\r\n\r\n\0\r\nQUIT\n\x31"), "bad PROXY header: binary version 3, but only 2 exists"),
        (
            bad(b"\r\n\r\n\0\r\nQUIT\n\x21\x41"),
            "bad PROXY header: unknown family and transport 0x41",
        ),
        (
            bad(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
            "bad PROXY header: 65551 bytes, which is over 4096",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
