//! Frames of one size.

mod support;

use ropewalk_codecs::Fixed;
use support::{encoded, gives, refuses};

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
