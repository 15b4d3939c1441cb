//! Netstrings: the grammar, byte by byte, and where an error is.

use bytes::BytesMut;
use ropewalk_codecs::{Netstring, own_limit};
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{encoded, gives, refuses};

/// As the results of the original are listed for a limit of 99 999; what is pending there is
/// truncated here, for the stream ends.
fn usual() -> Netstring {
    Netstring::new().max(99_999)
}

#[test]
fn a_netstring_is_delivered_when_its_comma_has_come() {
    gives(&usual(), "0:,", [""]);
    gives(&usual(), "1:a,", ["a"]);
    gives(&usual(), "1:a,1:b,", ["a", "b"]);
    gives(&usual(), "4:1:a,,", ["1:a,"]);
    gives(&usual(), "1:\0,", [r"\x00"]);
    gives(&usual(), "10:0123456789,", ["0123456789"]);
    gives(&usual(), "4:aa", ["!Truncated { have: 4 }@4"]);
    gives(&usual(), "4:aaaa", ["!Truncated { have: 6 }@6"]);
}

#[test]
fn an_unfinished_netstring_is_waited_for() {
    for pending in ["", "5:hel", "9", "0", "99999", "99999:", "1:a"] {
        let mut buffer = BytesMut::from(pending);
        assert_eq!(usual().decode(&mut buffer).unwrap(), None, "{pending}");
        assert_eq!(buffer, pending);
    }
}

#[test]
fn it_is_refused_at_the_first_byte_that_cannot_be_right() {
    let bad = |at: usize| format!("!BadLength@{at}");
    for (stream, at) in [
        ("00:,", 1),
        ("01:a,", 1),
        (" 1:a,", 0),
        ("+1:a,", 0),
        ("-1:a,", 0),
        ("1 :a,", 1),
        (":", 0),
        (",", 0),
        (":aaa,", 0),
        ("3aaa,", 1),
        ("aaa", 0),
        ("a", 0),
        ("9\n", 1),
        ("9\n:", 1),
        ("12,", 2),
        ("\u{661}:a,", 0),
    ] {
        gives(&usual(), stream, [&bad(at)]);
        // And no later: what comes after does not matter.
        gives(&usual(), &stream.as_bytes()[..=at], [&bad(at)]);
    }
    gives(&usual(), "1:a,01:a,", ["a", "!BadLength@5"]);
}

#[test]
fn a_missing_comma_is_an_error_at_its_place() {
    gives(&usual(), "1:a;", ["!MissingTerminator@3"]);
    gives(&usual(), "1:ab,", ["!MissingTerminator@3"]);
    gives(&usual(), "0:a,", ["!MissingTerminator@2"]);
    gives(&usual(), "1:a,x", ["a", "!BadLength@4"]);
    gives(&usual(), "1:a,\n", ["a", "!BadLength@4"]);
    gives(&usual(), "1:a,1:b;1:c,", ["a", "!MissingTerminator@7"]);
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_colon() {
    let over = |max: usize, at: usize| format!("!TooLong {{ max: {max} }}@{at}");
    for stream in ["100000", "1000000", "100000:", "9999999999999999999999"] {
        gives(&usual(), stream, [&over(99_999, 5)]);
    }
    gives(&Netstring::new().max(0), "0:,", [""]);
    gives(&Netstring::new().max(0), "1", [&over(0, 0)]);
    gives(&Netstring::new().max(9), "10", [&over(9, 1)]);
    gives(&Netstring::new(), "65537:", [&over(65_536, 4)]);
}

#[test]
fn no_length_wraps_without_a_limit() {
    let free = Netstring::new().unlimited();
    let nineteen_digits = "9223372036854775808:a";
    let mut buffer = BytesMut::from(nineteen_digits);
    assert!(free.clone().decode(&mut buffer).unwrap_err().is_fatal());
    let mut buffer = BytesMut::from(&*"9".repeat(400));
    assert!(free.clone().decode(&mut buffer).unwrap_err().is_fatal());
    gives(&free, "4000000000000000000:a", ["!Truncated { have: 21 }@21"]);
}

#[test]
fn nothing_is_allocated_for_a_length_that_was_announced() {
    let mut buffer = BytesMut::from("60000:abc");
    let capacity = buffer.capacity();
    assert_eq!(Netstring::new().decode(&mut buffer).unwrap(), None);
    assert_eq!(buffer.capacity(), capacity);
}

#[test]
fn encoding_writes_the_shortest_length() {
    assert_eq!(encoded(&usual(), "").unwrap(), "0:,");
    assert_eq!(encoded(&usual(), "hello").unwrap(), "5:hello,");
    assert_eq!(encoded(&usual(), [b'x'; 10]).unwrap(), "10:xxxxxxxxxx,");
    let long = encoded(&usual(), "y".repeat(12_305)).unwrap();
    assert_eq!(&long[..7], b"12305:y");
    refuses(&Netstring::new().max(4), "12345", "TooLong { max: 4 }");
    assert_eq!(encoded(&Netstring::new().max(4), "1234").unwrap(), "4:1234,");
}

/// NS1 to NS21, each byte by byte as well.
#[test]
fn a_length_of_any_number_of_digits_is_written_and_read() {
    // From 8 digits on they are written another way.
    for digits in 1..=7 {
        for length in [10_usize.pow(digits) - 1, 10_usize.pow(digits)] {
            let mut netstring = Netstring::new().unlimited();
            let mut bytes = BytesMut::from("before");
            netstring.encode(vec![b'x'; length], &mut bytes).unwrap();
            let head = format!("before{length}:");
            assert_eq!(bytes.len(), head.len() + length + 1);
            assert!(bytes.starts_with(head.as_bytes()) && bytes.ends_with(b"x,"), "{length}");
            let mut bytes = bytes.split_off("before".len());
            assert_eq!(netstring.decode(&mut bytes).unwrap().unwrap().len(), length);
        }
    }
}

#[test]
fn the_vectors_of_twisted() {
    let fifty = Netstring::new().max(50);
    gives(&fifty, "9".repeat(22), ["!TooLong { max: 50 }@1"]); // NS1
    gives(&fifty, "abc", ["!BadLength@0"]);
    gives(&fifty, "4:abcde", ["!MissingTerminator@6"]);
    gives(&fifty, format!("51:{}b,", "a".repeat(50)), ["!TooLong { max: 50 }@1"]);
    gives(&fifty, "0:,", [""]); // NS3
    gives(&fifty, "1:a,", ["a"]); // NS4
    gives(&fifty, "2:ab,", ["ab"]); // NS5
    gives(&fifty, "4:1:a,,", ["1:a,"]); // NS6
    gives(&fifty, "2:aaa,", ["!MissingTerminator@4"]); // NS7
    gives(&fifty, "0:a,", ["!MissingTerminator@2"]); // NS8
    gives(&fifty, ":aaa,", ["!BadLength@0"]); // NS9
    gives(&fifty, "3aaa,", ["!BadLength@1"]); // NS10
    gives(&fifty, "aaa,", ["!BadLength@0"]); // NS11
    gives(&fifty, "aaa", ["!BadLength@0"]); // NS12
    gives(&fifty, "4:aaaa,", ["aaaa"]); // NS13
    gives(&fifty, "10:0123456789,", ["0123456789"]); // NS14
    gives(&fifty, "2:ab,", ["ab"]); // NS15
    gives(&fifty, "1:a,1:b,", ["a", "b"]); // NS16
    gives(&fifty, [[0; 51].as_slice(), b":"].concat(), ["!BadLength@0"]); // NS17
    gives(&fifty, "12:", ["!Truncated { have: 3 }@3"]); // NS18
    gives(&Netstring::new().max(12), "12:", ["!Truncated { have: 3 }@3"]); // NS19
    gives(&Netstring::new().max(11), "12:", ["!TooLong { max: 11 }@1"]); // NS20
    gives(&Netstring::new().max(11), "1000:", ["!TooLong { max: 11 }@2"]); // NS21
}

#[test]
fn the_strings_that_twisted_sends_itself_come_back() {
    let mut codec = Netstring::new().max(699);
    let long = "a".repeat(515);
    let strings = ["hello", "world", "how", "are", "you123", ":today", &long];
    let mut stream = BytesMut::new();
    for string in strings {
        codec.encode(string, &mut stream).unwrap();
    }
    gives(&codec, stream, strings); // NS2
}

#[test]
fn the_rest_of_a_frame_is_within_its_own_limit_and_says_how_long_the_frame_is() {
    for (bytes, whole) in [(&b"12:abc"[..], 16), (b"1", 0)] {
        let mut buf = BytesMut::from(bytes);
        assert!(Netstring::new().decode(&mut buf).unwrap().is_none());
        assert_eq!(own_limit::holds_for(&buf), Some(whole));
    }
}
