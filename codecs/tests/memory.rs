//! Law 4 by an allocator that counts: what was announced costs nothing, and what came costs about
//! its size.

use std::alloc::System;
use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{
    CodecError, CodecExt, Fixed, LengthPrefixed, LineRaw, Lines, Netstring, RawBytes,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio_util::codec::{Decoder, Encoder};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What an error's box, a frame's handle and the like may cost, for each event.
const PER_EVENT: usize = 256;

/// The bytes asked of the allocator while the decoder works, and the frames and errors it gave.
///
/// The reads go into a buffer that has room for all of them, so that nothing is counted but what
/// the decoder does.
fn requested<C: Decoder>(mut codec: C, stream: &[u8], step: usize) -> (usize, usize) {
    let mut buffer = BytesMut::with_capacity(stream.len());
    let region = Region::new(ALLOCATOR);
    let mut events = 0;
    for read in stream.chunks(step) {
        buffer.extend_from_slice(read);
        while let Ok(Some(_)) | Err(_) =
            black_box(codec.decode(&mut buffer)).as_ref().map(Option::as_ref)
        {
            events += 1;
        }
    }
    let stats = region.change();
    (stats.bytes_allocated + stats.bytes_reallocated.unsigned_abs(), events)
}

/// Checks that what is asked for is bounded by what came, in reads of any size.
fn is_bounded<C: Decoder>(name: &str, make_codec: impl Fn() -> C, stream: &[u8]) {
    for step in [1, 7, 1460, stream.len().max(1)] {
        let (bytes, events) = requested(make_codec(), stream, step);
        let bound = stream.len() + (events + 1) * PER_EVENT;
        assert!(
            bytes <= bound,
            "{name}: {bytes} bytes for {} in steps of {step}, at most {bound}",
            stream.len()
        );
    }
}

fn encoded<C: Encoder<Bytes, Error = CodecError>>(mut codec: C, frames: &[Bytes]) -> BytesMut {
    let mut stream = BytesMut::new();
    for frame in frames {
        codec.encode(frame.clone(), &mut stream).expect("a frame within the limit");
    }
    stream
}

/// One test for all: the allocator counts for the whole program, and tests run side by side.
#[test]
fn a_decoders_allocations_are_bounded_by_the_bytes_received() {
    announced_lengths_cost_nothing();
    floods_cost_no_more_than_they_are_long();
    frames_cost_their_size();
    encoding_writes_into_the_buffer_alone();
    the_count_counts();
}

fn announced_lengths_cost_nothing() {
    let none = |name, (bytes, events)| assert_eq!((bytes, events), (0, 0), "{name}");
    none("netstring", requested(Netstring::new().unlimited(), b"4000000000000000000:abc", 1));
    none("u32", requested(LengthPrefixed::u32().unlimited(), b"\xff\xff\xff\xffabc", 1));
    none(
        "u64",
        requested(LengthPrefixed::u64().unlimited(), b"\0\xff\xff\xff\xff\xff\xff\xffabc", 1),
    );
    none(
        "varint",
        requested(LengthPrefixed::varint().unlimited(), b"\xff\xff\xff\xff\xff\xff\xff\x7fabc", 1),
    );
    none("fixed", requested(Fixed::new(1 << 40), b"abc", 1));
    let mut raw = LineRaw::crlf();
    raw.raw(u64::MAX);
    assert!(requested(raw, b"abc", 3).0 <= 3 + PER_EVENT, "a raw section costs what came of it");
}

fn floods_cost_no_more_than_they_are_long() {
    for byte in [0, b'\n', b'1', b'x', 0x80, 0xff] {
        let flood = vec![byte; 100_000];
        is_bounded("crlf", Lines::crlf, &flood);
        is_bounded("skipping", || Lines::crlf().max(100).skip_too_long(), &flood);
        is_bounded("utf8", || Lines::lf().skip_too_long().utf8(), &flood);
        is_bounded("netstring", Netstring::new, &flood);
        is_bounded("u8", LengthPrefixed::u8, &flood);
        is_bounded("u32", LengthPrefixed::u32, &flood);
        is_bounded("varint", LengthPrefixed::varint, &flood);
        is_bounded("raw", || RawBytes, &flood);
        is_bounded("map", || Lines::crlf().map(|line: Bytes| line), &flood);
    }
}

fn frames_cost_their_size() {
    let frames = [10, 0, 511, 512, 513, 9000].map(|length| Bytes::from(vec![b'x'; length]));
    is_bounded("lines", Lines::crlf, &encoded(Lines::crlf(), &frames));
    is_bounded("netstring", Netstring::new, &encoded(Netstring::new(), &frames));
    is_bounded("u16", LengthPrefixed::u16, &encoded(LengthPrefixed::u16(), &frames));
    is_bounded("map", || Lines::lf().map(|line: Bytes| line.len()), &encoded(Lines::lf(), &frames));
}

fn encoding_writes_into_the_buffer_alone() {
    let frame = Bytes::from(vec![b'x'; 9000]);
    let mut buffer = BytesMut::with_capacity(10_000);
    let mut free =
        |name, encode: &mut dyn FnMut(Bytes, &mut BytesMut) -> Result<(), CodecError>| {
            buffer.clear();
            let frame = frame.clone();
            let region = Region::new(ALLOCATOR);
            encode(frame, &mut buffer).expect("a frame within the limit");
            assert_eq!(region.change().bytes_allocated, 0, "{name}");
            assert!(buffer.len() > 9000);
        };
    free("lines", &mut |frame, buffer| Lines::crlf().encode(frame, buffer));
    free("netstring", &mut |frame, buffer| Netstring::new().encode(frame, buffer));
    free("varint", &mut |frame, buffer| LengthPrefixed::varint().encode(frame, buffer));
}

/// A decoder that believes what is announced is found out.
fn the_count_counts() {
    struct Trusting;
    impl Decoder for Trusting {
        type Item = Bytes;
        type Error = CodecError;
        fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
            let room: Vec<u8> =
                Vec::with_capacity(src.first().map_or(0, |&length| usize::from(length) << 10));
            black_box(room);
            Ok(None)
        }
    }
    assert!(requested(Trusting, b"\xff", 1).0 >= 255 << 10);
}
