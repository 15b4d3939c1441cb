//! The seven laws of a codec, on this one.

use bytes::Bytes;
use ropewalk::laws::Laws;

#[test]
fn the_codec_keeps_the_laws() {
    Laws::new({{crate_name}}::codec)
        // Well-formed, cut off, with a wrong digit, and announced too long.
        .streams(["0005hello0000", "0003ab", "00x3abc", "ffff"])
        .frames(["hello", "", "0005hello"].map(Bytes::from))
        .limit(4 + {{crate_name}}::codec::MAX_CONTENT)
        .window(4)
        .check();
}
