//! Frames that are lent: the same laws, and the same frames as those that are owned.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{CodecError, Fixed, Framing, LengthPrefixed, Lines, Netstring};
use ropewalk_laws::{Laws, Lent};
use tokio_util::codec::{Decoder, Encoder};

use crate::corpus::{short_frames, streams};

/// What a decoder gives for a whole stream, errors as they print.
fn all(
    mut codec: impl Decoder<Item = Bytes, Error = CodecError>,
    stream: &[u8],
) -> Vec<Result<Bytes, String>> {
    let mut buffer = BytesMut::from(stream);
    let mut given = Vec::new();
    while let Some(next) =
        codec.decode_eof(&mut buffer).map_err(|error| error.to_string()).transpose()
    {
        given.push(next);
    }
    given
}

fn check<C>(make: impl Fn() -> C + Copy + 'static, holds: usize, window: usize)
where
    C: Framing
        + Decoder<Item = Bytes, Error = CodecError>
        + Encoder<Bytes, Error = CodecError>
        + 'static,
{
    Laws::new(move || Lent(make()))
        .streams(streams())
        .frames(short_frames())
        .limit(holds)
        .window(window)
        .check();
    same(make);
}

fn same<C: Framing + Decoder<Item = Bytes, Error = CodecError>>(make: impl Fn() -> C) {
    for stream in streams() {
        assert_eq!(all(Lent(make()), &stream), all(make(), &stream), "{:?}", Bytes::from(stream));
    }
}

#[test]
fn lent_lines_keep_the_laws_and_are_the_owned_ones() {
    check(|| Lines::crlf().max(6), 7, 1);
    check(|| Lines::lf().max(5).skip_too_long(), 5, 1);
    check(|| Lines::any().max(5).skip_too_long(), 6, 1);
    check(|| Lines::delimited("-=-").max(6), 8, 2);
    same(|| Lines::crlf().max(6).final_line());
    same(|| Lines::any().max(6).skip_too_long().final_line());
}

#[test]
fn lent_netstrings_keep_the_laws_and_are_the_owned_ones() {
    check(|| Netstring::new().max(12), 15, 1);
}

#[test]
fn lent_prefixed_frames_keep_the_laws_and_are_the_owned_ones() {
    check(|| LengthPrefixed::u8().adjust(2).max(6), 6, 1);
    check(|| LengthPrefixed::u32().max(6), 9, 4);
    check(|| LengthPrefixed::u64().little_endian().inclusive().max(6), 13, 8);
    check(|| LengthPrefixed::varint().max(200), 209, 10);
}

#[test]
fn lent_frames_of_one_size_keep_the_laws_and_are_the_owned_ones() {
    check(|| Fixed::new(3), 2, 1);
}

#[test]
#[should_panic(expected = "use it as a Decoder")]
fn a_frame_with_a_header_is_not_lent() {
    let _ = LengthPrefixed::u16().header(2).next_frame(&mut &b"ab\0\0"[..]);
}

#[test]
fn lent_frames_lie_in_the_bytes_they_were_found_in() {
    let stream = b"one\ntwo\nthr".to_vec();
    let mut rest = &stream[..];
    let line = Lines::lf().next_frame(&mut rest).expect("a line").expect("a whole one");
    assert_eq!((line.as_ptr(), line), (stream.as_ptr(), &b"one"[..]));
    assert_eq!(rest.as_ptr(), stream[4..].as_ptr());
}
