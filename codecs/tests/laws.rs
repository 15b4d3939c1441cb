//! What holds for every codec, on streams nobody thought of.

mod support;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use ropewalk_codecs::{CodecError, Fixed, LengthPrefixed, LineOrRaw, LineRaw, Lines, Netstring, RawBytes};
use support::{Event, describe, drive};
use tokio_util::codec::{Decoder, Encoder};

type Events<T> = Vec<Event<T>>;

/// A codec under test, the most it may hold after a call of `decode`, and what makes its events comparable.
struct Subject<C: Decoder> {
    codec: C,
    /// The limit with the longest prefix or delimiter.
    holds: usize,
    join: fn(Events<C::Item>) -> Events<C::Item>,
}

impl<C> Subject<C>
where
    C: Decoder<Error = CodecError> + Encoder<Bytes, Error = CodecError> + Clone,
    C::Item: PartialEq + Debug + Clone + Frame,
{
    fn events<'a>(&self, reads: impl IntoIterator<Item = &'a [u8]>) -> Events<C::Item> {
        (self.join)(drive(self.codec.clone(), reads))
    }

    /// Laws 1 and 6: however the stream is cut, the same frames, and the same errors at the same offsets.
    fn any_segmentation(&self, stream: &[u8], sizes: &[usize]) {
        let whole = self.events([stream]);
        assert_eq!(self.events(stream.chunks(1)), whole, "byte by byte");
        assert_eq!(self.events(cut(stream, sizes)), whole, "in reads of {sizes:?}");
    }

    /// Laws 2 and 7: what was encoded comes back, what is refused leaves the buffer as it was.
    fn round_trip(&self, frames: &[Vec<u8>], sizes: &[usize]) {
        let mut stream = BytesMut::new();
        let mut accepted = Vec::new();
        for frame in frames {
            let before = stream.clone();
            match self.codec.clone().encode(Bytes::copy_from_slice(frame), &mut stream) {
                Ok(()) => accepted.push(Event::Frame(C::Item::of(frame))),
                Err(error) => {
                    assert_eq!(stream, before, "{}", describe(&error));
                    assert_eq!(error.offset(), None);
                }
            }
        }
        assert_eq!(self.events(cut(&stream, sizes)), accepted);
    }

    /// Law 3: the start of a stream gives the frames that are whole in it, and an error at its end if that is within one.
    fn truncation(&self, frames: &[Vec<u8>]) {
        let mut stream = BytesMut::new();
        let mut whole = Vec::new();
        // Where each frame ends.
        let mut ends = vec![0];
        for frame in frames {
            if self.codec.clone().encode(Bytes::copy_from_slice(frame), &mut stream).is_ok() {
                whole.push(Event::Frame(C::Item::of(frame)));
                ends.push(stream.len());
            }
        }
        for end in 0..=stream.len() {
            let complete = ends.iter().filter(|at| **at <= end).count() - 1;
            let mut expected = whole[..complete].to_vec();
            let have = end - ends[complete];
            if have > 0 {
                expected.push(Event::Error(format!("!Truncated {{ have: {have} }}@{end}")));
            }
            assert_eq!(self.events([&stream[..end]]), expected);
        }
    }

    /// Law 4: after each call no more is held than an unfinished frame.
    fn bounded_memory(&self, stream: &[u8]) {
        let mut codec = self.codec.clone();
        let mut buffer = BytesMut::new();
        for byte in stream {
            buffer.extend_from_slice(&[*byte]);
            while !matches!(codec.decode(&mut buffer), Ok(None)) {}
            assert!(buffer.len() <= self.holds, "{} bytes held", buffer.len());
        }
    }
}

/// The frame that encoding these bytes gives.
trait Frame {
    fn of(bytes: &[u8]) -> Self;
}

impl Frame for Bytes {
    fn of(bytes: &[u8]) -> Self {
        Self::copy_from_slice(bytes)
    }
}

impl Frame for LineOrRaw {
    fn of(bytes: &[u8]) -> Self {
        Self::Line(Bytes::copy_from_slice(bytes))
    }
}

/// Cuts a stream into reads of these sizes, over and over.
fn cut<'a>(stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = stream;
    let mut reads = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (read, tail) = rest.split_at((*size).min(rest.len()));
        reads.push(read);
        rest = tail;
    }
    reads
}

/// Bytes that mean something to these codecs more often than not.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let telling = prop::sample::select(&b"\r\n\r\n\r\n:,0123a-=\x00\x01\x02\x03\x80\x81\xff"[..]);
    prop::collection::vec(prop_oneof![8 => telling, 1 => any::<u8>()], 0..most)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..9_usize, 1..8)
}

macro_rules! laws {
    ($($name:ident: $codec:expr, holds $holds:expr;)*) => {
        $(mod $name {
            use super::*;

            fn subject() -> Subject<impl Decoder<Item: PartialEq + Debug + Clone + Frame, Error = CodecError>
                + Encoder<Bytes, Error = CodecError> + Clone> {
                Subject { codec: $codec, holds: $holds, join: |events| events }
            }

            proptest! {
                #[test]
                fn any_stream_in_any_segmentation_gives_the_same(stream in bytes(60), sizes in sizes()) {
                    subject().any_segmentation(&stream, &sizes);
                }

                #[test]
                fn what_is_encoded_comes_back(frames in prop::collection::vec(bytes(10), 0..6), sizes in sizes()) {
                    subject().round_trip(&frames, &sizes);
                }

                #[test]
                fn a_stream_cut_short_gives_whole_frames_and_says_so(frames in prop::collection::vec(bytes(10), 0..4)) {
                    subject().truncation(&frames);
                }

                #[test]
                fn no_more_is_held_than_a_frame(stream in bytes(60)) {
                    subject().bounded_memory(&stream);
                }
            }
        })*
    };
}

laws! {
    crlf: Lines::crlf().max(6), holds 7;
    lf: Lines::lf().max(6), holds 6;
    any: Lines::any().max(6), holds 7;
    crlf_skipping: Lines::crlf().max(3).skip_too_long(), holds 4;
    any_skipping: Lines::any().max(3).skip_too_long(), holds 4;
    one_byte_delimiter: Lines::delimited("-").max(6), holds 6;
    overlapping_delimiter: Lines::delimited("-=-").max(6), holds 8;
    repeating_delimiter: Lines::delimited("aa").max(4).skip_too_long(), holds 5;
    line_raw: LineRaw::crlf().max(6), holds 7;
    netstring: Netstring::new().max(12), holds 15;
    u8: LengthPrefixed::u8().max(6), holds 6;
    u16_little_inclusive: LengthPrefixed::u16().max(6).little_endian().inclusive(), holds 7;
    u24_header: LengthPrefixed::u24().max(8).header(2), holds 10;
    u32_adjusted: LengthPrefixed::u32().max(6).adjust(-2), holds 9;
    u64: LengthPrefixed::u64().max(6), holds 13;
    u8_adjusted: LengthPrefixed::u8().max(6).adjust(2), holds 6;
    varint: LengthPrefixed::varint().max(200), holds 209;
    varint_header: LengthPrefixed::varint().max(9).header(3), holds 18;
    fixed: Fixed::new(5), holds 4;
}

/// Raw bytes have no frames: their joined bytes are what is compared.
mod raw_bytes {
    use super::*;

    fn joined(events: Events<Bytes>) -> Events<Bytes> {
        let bytes: Vec<u8> = events
            .into_iter()
            .flat_map(|event| match event {
                Event::Frame(bytes) => bytes.to_vec(),
                Event::Error(error) => panic!("{error}"),
            })
            .collect();
        vec![Event::Frame(bytes.into())]
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(frames in prop::collection::vec(bytes(10), 0..6), sizes in sizes()) {
            let subject = Subject { codec: RawBytes, holds: 0, join: joined };
            subject.any_segmentation(&frames.concat(), &sizes);
            subject.bounded_memory(&frames.concat());
        }
    }
}

proptest! {
    /// Long frames take another way out of the buffer than short ones.
    #[test]
    fn frames_of_any_length_come_back(lengths in prop::collection::vec(0..3000_usize, 1..5), step in 1..2000_usize) {
        let frames: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(index, length)| vec![b'a' + u8::try_from(index).unwrap(); *length]).collect();
        let sizes = [step, 1, 1460];
        let join = |events| events;
        Subject { codec: Lines::crlf(), holds: 0, join }.round_trip(&frames, &sizes);
        Subject { codec: Netstring::new(), holds: 0, join }.round_trip(&frames, &sizes);
        Subject { codec: LengthPrefixed::varint(), holds: 0, join }.round_trip(&frames, &sizes);
        Subject { codec: LengthPrefixed::u16().little_endian(), holds: 0, join }.round_trip(&frames, &sizes);
    }
}
