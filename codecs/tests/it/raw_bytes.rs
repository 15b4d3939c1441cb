//! Bytes as they come.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::RawBytes;
use tokio_util::codec::Decoder;

use crate::support::{Event, drive, encoded};

#[test]
fn bytes_come_as_they_were_read() {
    let reads = [&b"ab"[..], b"", b"c\r\n", b"d"];
    let events = drive(RawBytes, reads);
    let expected = ["ab", "c\r\n", "d"].map(|read| Event::Frame(Bytes::from(read)));
    assert_eq!(events, expected);
    assert_eq!(drive(RawBytes, []), []);
}

#[test]
fn a_chunk_is_at_most_64_kib() {
    let mut buffer = BytesMut::from(&*vec![b'x'; 150_000]);
    for expected in [65_536, 65_536, 18_928] {
        assert_eq!(RawBytes.decode(&mut buffer).unwrap().unwrap().len(), expected);
    }
    assert_eq!(RawBytes.decode(&mut buffer).unwrap(), None);
}

#[test]
fn encoding_appends() {
    assert_eq!(encoded(&RawBytes, "a\r\nb").unwrap(), "a\r\nb");
    assert_eq!(encoded(&RawBytes, "").unwrap(), "");
}
