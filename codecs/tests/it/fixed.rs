//! Frames of one size.

use bytes::BytesMut;
use ropewalk_codecs::{Fixed, own_limit};
use tokio_util::codec::Decoder;

use crate::support::{encoded, gives, refuses};

#[test]
fn every_frame_has_the_size() {
    gives(&Fixed::new(3), "abcdef", ["abc", "def"]);
    gives(&Fixed::new(1), "ab", ["a", "b"]);
    gives(&Fixed::new(3), "", []);
}

#[test]
fn a_frame_cut_short_is_truncated() {
    gives(&Fixed::new(3), "abcd", ["abc", "!Truncated { have: 1 }@4"]);
}

#[test]
fn another_size_is_not_encoded() {
    assert_eq!(encoded(&Fixed::new(3), "abc").unwrap(), "abc");
    refuses(&Fixed::new(3), "ab", "BadLength");
    refuses(&Fixed::new(3), "abcd", "BadLength");
    refuses(&Fixed::new(3), "", "BadLength");
}

#[test]
#[should_panic(expected = "at least one byte")]
fn a_size_of_nothing_is_refused_when_the_codec_is_built() {
    let _ = Fixed::new(0);
}

/// A server limits what a decoder of unknown limits may leave: this one says that it has its own,
/// and how much is to come.
#[test]
fn the_rest_of_a_frame_is_within_its_own_limit() {
    let (mut fixed, mut buf) = (Fixed::new(3), BytesMut::from("ab"));
    assert!(fixed.decode(&mut buf).unwrap().is_none());
    assert_eq!(own_limit::holds_for(&buf), Some(3));
    buf.extend_from_slice(b"cde");
    fixed.decode(&mut buf).unwrap().unwrap();
    assert_eq!(own_limit::holds_for(&buf), None);
}
