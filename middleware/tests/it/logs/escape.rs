//! Bytes of a peer can't break a log line.

use std::fmt;

use ropewalk_middleware::{ESCAPED_MAX, Escaped};

fn assert_fit(line: &str) {
    assert!(line.len() <= ESCAPED_MAX, "{} bytes: {line}", line.len());
    assert!(line.bytes().all(|b| (0x20..0x7f).contains(&b)), "{line:?}");
}

#[test]
fn printable_text_passes_as_it_is() {
    assert_eq!(Escaped::new(b"GET key 1~").to_string(), "GET key 1~");
    assert_eq!(Escaped::new(b"").to_string(), "");
}

#[test]
fn line_breaks_escape_sequences_nul_and_quotes_are_escaped() {
    assert_eq!(
        Escaped::new(b"a\r\n\tb\0\x1b[2J\x7f\xff").to_string(),
        r"a\r\n\tb\x00\x1b[2J\x7f\xff"
    );
    assert_eq!(Escaped::new(br#"x" reason=\"#).to_string(), r#"x\" reason=\\"#);
    assert_eq!(format!("{:?}", Escaped::new(b"a\"b")), r#""a\"b""#);
}

#[test]
fn every_byte_alone_and_many_times_over_is_fit_for_a_line() {
    for byte in 0..=255u8 {
        for len in [1, 2, 63, 64, 65, 128, 224, 225, 226, 255, 256, 257, 10_000] {
            let line = Escaped::new(&vec![byte; len]).to_string();
            assert_fit(&line);
            let whole = std::ascii::escape_default(byte).len() * len <= ESCAPED_MAX;
            assert_eq!(line.ends_with(&format!("...({len} bytes)")), !whole, "{byte} {len} {line}");
        }
    }
}

#[test]
fn a_text_that_just_fits_is_not_cut_and_one_more_byte_is_cut_with_its_length() {
    assert_eq!(Escaped::new(&[b'a'; ESCAPED_MAX]).to_string(), "a".repeat(ESCAPED_MAX));
    let cut = Escaped::new(&[b'a'; ESCAPED_MAX + 1]).to_string();
    assert_eq!(cut, format!("{}...(257 bytes)", "a".repeat(225)));
}

#[test]
fn a_cut_never_halves_an_escape() {
    for lead in 0..8 {
        let mut bytes = vec![b'a'; lead];
        bytes.extend([0; 1000]);
        let line = Escaped::new(&bytes).to_string();
        let kept = line.strip_suffix(&format!("...({} bytes)", bytes.len())).unwrap();
        assert_eq!((kept.len() - lead) % 4, 0, "{line}");
    }
}

#[test]
fn an_error_that_quotes_a_peer_is_escaped_and_cut_too() {
    struct Quoting;
    impl fmt::Display for Quoting {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for _ in 0..100_000 {
                f.write_str("\r\nüber")?;
            }
            Ok(())
        }
    }
    let line = Escaped::display(&Quoting).to_string();
    assert_fit(&line);
    assert!(line.starts_with(r"\r\n\xc3\xbcber\r\n"), "{line}");
    assert!(line.ends_with("...(700000 bytes)"), "{line}");
}

#[test]
fn a_display_that_fails_shows_what_came() {
    struct Failing;
    impl fmt::Display for Failing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half")?;
            Err(fmt::Error)
        }
    }
    assert_eq!(Escaped::display(&Failing).to_string(), "half");
}
