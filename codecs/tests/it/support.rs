//! Drives a decoder over a stream in every segmentation and compares what comes out.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::CodecError;
use tokio_util::codec::{Decoder, Encoder};

/// A frame, or what an error is: `!` fatal or `?` recoverable, its kind, `@` its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<T> {
    Frame(T),
    Error(String),
}

impl<T: AsRef<[u8]>> Event<T> {
    fn show(&self) -> String {
        match self {
            Self::Frame(frame) => frame.as_ref().escape_ascii().to_string(),
            Self::Error(error) => error.clone(),
        }
    }
}

pub(crate) fn describe(error: &CodecError) -> String {
    let mark = if error.is_fatal() { '!' } else { '?' };
    let offset = error.offset().map_or_else(|| "none".to_owned(), |at| at.to_string());
    format!("{mark}{:?}@{offset}", error.kind())
}

/// What `codec` gives for these reads, the end of the stream included.
///
/// Before every other read the unread bytes move to another buffer, as a server may do with them.
pub(crate) fn drive<'a, C>(
    mut codec: C,
    reads: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Event<C::Item>>
where
    C: Decoder<Error = CodecError>,
{
    let mut events = Vec::new();
    let mut buffer = BytesMut::new();
    let mut fused = false;
    let mut at = 0;
    for (index, read) in reads.into_iter().enumerate() {
        if index % 2 == 1 {
            buffer = BytesMut::from(&buffer[..]);
        }
        buffer.extend_from_slice(read);
        at += read.len();
        loop {
            let (before, capacity) = (buffer.len(), buffer.capacity());
            let result = codec.decode(&mut buffer);
            assert!(buffer.len() <= before, "a decoder does not write");
            assert!(buffer.capacity() <= capacity, "a decoder does not reserve, at {at}");
            if matches!(result, Ok(None)) {
                break;
            }
            push(&mut events, &mut fused, result);
        }
        assert!(!fused || buffer.is_empty(), "a fused decoder keeps nothing, at {at}");
    }
    loop {
        let result = codec.decode_eof(&mut buffer);
        if matches!(result, Ok(None)) {
            return events;
        }
        push(&mut events, &mut fused, result);
    }
}

fn push<T>(events: &mut Vec<Event<T>>, fused: &mut bool, result: Result<Option<T>, CodecError>) {
    assert!(!*fused, "nothing comes after a fatal error");
    match result {
        Ok(Some(frame)) => events.push(Event::Frame(frame)),
        Ok(None) => {}
        Err(error) => {
            *fused = error.is_fatal();
            events.push(Event::Error(describe(&error)));
        }
    }
}

/// What `codec` gives for the whole stream in one read, having checked that every cut in two, reads
/// of 1 to 9 bytes and, for short streams, every cut in three give the same.
pub(crate) fn every_split<C>(codec: &C, stream: &[u8]) -> Vec<Event<C::Item>>
where
    C: Decoder<Error = CodecError> + Clone,
    C::Item: PartialEq + Debug,
{
    every_split_by(codec, stream, |events| events)
}

/// [`every_split`] for codecs whose frames may be cut differently: `join` undoes it.
pub(crate) fn every_split_by<C>(
    codec: &C,
    stream: &[u8],
    join: impl Fn(Vec<Event<C::Item>>) -> Vec<Event<C::Item>>,
) -> Vec<Event<C::Item>>
where
    C: Decoder<Error = CodecError> + Clone,
    C::Item: PartialEq + Debug,
{
    let whole = join(drive(codec.clone(), [stream]));
    let check = |reads: &[&[u8]]| {
        let events = join(drive(codec.clone(), reads.iter().copied()));
        let shown: Vec<_> = reads.iter().map(|read| read.escape_ascii().to_string()).collect();
        assert_eq!(events, whole, "in reads of {shown:?}");
    };
    for first in 0..=stream.len().min(600) {
        let (head, tail) = stream.split_at(first);
        check(&[head, tail]);
        if stream.len() <= 40 {
            for second in 0..=tail.len() {
                let (middle, tail) = tail.split_at(second);
                check(&[head, middle, tail]);
            }
        }
    }
    for size in 1..=9 {
        check(&stream.chunks(size).collect::<Vec<_>>());
    }
    whole
}

/// Checks that this stream gives these frames and errors in every segmentation.
#[track_caller]
pub(crate) fn gives<C, const N: usize>(codec: &C, stream: impl AsRef<[u8]>, expected: [&str; N])
where
    C: Decoder<Error = CodecError> + Clone,
    C::Item: PartialEq + Debug + AsRef<[u8]>,
{
    let stream = stream.as_ref();
    let shown: Vec<_> = every_split(codec, stream).iter().map(Event::show).collect();
    assert_eq!(shown, expected, "for {:?}", stream.escape_ascii().to_string());
}

/// What `codec` makes of one frame.
pub(crate) fn encoded<C, T>(codec: &C, frame: T) -> Result<Bytes, CodecError>
where
    C: Encoder<T, Error = CodecError> + Clone,
{
    let mut buffer = BytesMut::new();
    codec.clone().encode(frame, &mut buffer)?;
    Ok(buffer.freeze())
}

/// Checks that encoding fails, with this kind, and leaves the buffer as it was.
#[track_caller]
pub(crate) fn refuses<C, T>(codec: &C, frame: T, kind: &str)
where
    C: Encoder<T, Error = CodecError> + Clone,
{
    let mut buffer = BytesMut::from("before");
    let Err(error) = codec.clone().encode(frame, &mut buffer) else {
        panic!("encoded {:?}", buffer.escape_ascii().to_string());
    };
    assert_eq!(format!("{:?}", error.kind()), kind);
    assert_eq!(error.offset(), None);
    assert_eq!(buffer, "before");
}
