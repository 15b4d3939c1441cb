//! Feeds a decoder its stream in reads and compares its results with the expected ones.

use bytes::BytesMut;
use ropewalk_codecs::{CodecError, ErrorKind};
use tokio_util::codec::Decoder;

use super::input::{Cuts, Input};

/// A part of the stream, from and to.
pub type Span = (usize, usize);

/// What a naive decoder found in a whole stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame: a header, empty for most codecs, and a body. What comes next begins at `end`.
    Frame { header: Span, body: Span, end: usize },
    /// Bytes without boundaries, at least one.
    Raw(Span),
    /// An error that consumes the stream up to `end`.
    Error { fault: Fault, end: usize },
}

/// What can be compared of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub offset: Option<u64>,
    pub fatal: bool,
}

/// The kinds of errors that codecs give here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    TooLong(usize),
    BadLength,
    MissingTerminator,
    DelimiterInFrame,
    Truncated(u64),
    InvalidUtf8,
    Parse,
    Unexpected,
}

impl Event {
    /// A frame that has no header.
    pub fn frame(from: usize, to: usize, end: usize) -> Self {
        Self::Frame { header: (from, from), body: (from, to), end }
    }

    /// An error after which nothing comes.
    pub fn fatal(kind: Kind, offset: usize) -> Self {
        Self::Error { fault: Fault { kind, offset: Some(offset as u64), fatal: true }, end: offset }
    }

    /// The stream ended within something that began at `from`.
    pub fn truncated(from: usize, len: usize) -> Self {
        Self::fatal(Kind::Truncated((len - from) as u64), len)
    }
}

impl From<&CodecError> for Fault {
    fn from(error: &CodecError) -> Self {
        let kind = match *error.kind() {
            ErrorKind::TooLong { max } => Kind::TooLong(max),
            ErrorKind::BadLength => Kind::BadLength,
            ErrorKind::MissingTerminator => Kind::MissingTerminator,
            ErrorKind::DelimiterInFrame => Kind::DelimiterInFrame,
            ErrorKind::Truncated { have } => Kind::Truncated(have),
            ErrorKind::InvalidUtf8 => Kind::InvalidUtf8,
            ErrorKind::Parse(_) => Kind::Parse,
            _ => Kind::Unexpected,
        };
        Self { kind, offset: error.offset(), fatal: error.is_fatal() }
    }
}

/// Takes the decoder's items, and may switch its mode in turn.
pub trait Handler<C: Decoder> {
    fn item(&mut self, codec: &mut C, item: C::Item);
    fn error(&mut self, codec: &mut C, fault: Fault);
}

/// How a stream is given to a decoder, and the most it may leave unread.
#[derive(Clone, Copy)]
pub struct Drive {
    pub cuts: Cuts,
    pub moves: bool,
    pub holds: usize,
}

impl Drive {
    /// The laws that hold for every stream: a decoder consumes and does not reserve, holds a
    /// bounded number of bytes, and gives nothing after a fatal error.
    pub fn run<C, H>(self, codec: &mut C, stream: &[u8], handler: &mut H)
    where
        C: Decoder<Error = CodecError>,
        H: Handler<C>,
    {
        let mut buffer = BytesMut::with_capacity(stream.len());
        let (mut fused, mut at, mut index) = (false, 0, 0);
        while at < stream.len() {
            if self.moves && index > 0 {
                buffer = BytesMut::from(&buffer[..]);
            }
            let end = self.cuts.end(index, at, stream.len());
            buffer.extend_from_slice(&stream[at..end]);
            (at, index) = (end, index + 1);
            while step(codec, C::decode, &mut buffer, &mut fused, handler) {}
            let holds = if fused { 0 } else { self.holds };
            assert!(
                buffer.len() <= holds,
                "{} of {} bytes are held after byte {at}",
                buffer.len(),
                holds
            );
        }
        while step(codec, C::decode_eof, &mut buffer, &mut fused, handler) {}
        assert!(buffer.is_empty(), "{} bytes are left at the end", buffer.len());
    }
}

type Call<C> = fn(&mut C, &mut BytesMut) -> Result<Option<<C as Decoder>::Item>, CodecError>;

/// One call. False if there is nothing more to be had.
fn step<C, H>(
    codec: &mut C,
    call: Call<C>,
    buffer: &mut BytesMut,
    fused: &mut bool,
    handler: &mut H,
) -> bool
where
    C: Decoder<Error = CodecError>,
    H: Handler<C>,
{
    let (len, capacity) = (buffer.len(), buffer.capacity());
    let result = call(codec, buffer);
    assert!(
        buffer.len() <= len && buffer.capacity() <= capacity,
        "a decoder neither writes nor reserves"
    );
    if let Ok(None) = result {
        return false;
    }
    assert!(!*fused, "nothing comes after a fatal error");
    match result {
        Ok(Some(item)) => handler.item(codec, item),
        Ok(None) => {}
        Err(error) => {
            *fused = error.is_fatal();
            handler.error(codec, Fault::from(&error));
        }
    }
    true
}

/// Expects frames of a stream, which `same` compares with their header and body.
pub struct Expect<'a, F> {
    stream: &'a [u8],
    events: &'a [Event],
    next: usize,
    same: F,
}

impl<'a, F> Expect<'a, F> {
    pub fn new(stream: &'a [u8], events: &'a [Event], same: F) -> Self {
        Self { stream, events, next: 0, same }
    }

    fn next(&mut self) -> Option<Event> {
        self.next += 1;
        self.events.get(self.next - 1).copied()
    }

    /// Nothing expected is missing.
    pub fn end(&self) {
        assert_eq!(self.next, self.events.len(), "these came of {:?}", self.events);
    }
}

impl<C, F> Handler<C> for Expect<'_, F>
where
    C: Decoder,
    F: FnMut(&C::Item, &[u8], &[u8]) -> bool,
{
    fn item(&mut self, _: &mut C, item: C::Item) {
        let event = self.next();
        let Some(Event::Frame { header, body, .. }) = event else {
            panic!("a frame instead of {event:?}");
        };
        let (header, body) = (&self.stream[header.0..header.1], &self.stream[body.0..body.1]);
        assert!((self.same)(&item, header, body), "another frame than {event:?}");
    }

    fn error(&mut self, _: &mut C, fault: Fault) {
        let event = self.next();
        let Some(Event::Error { fault: expected, .. }) = event else {
            panic!("{fault:?} instead of {event:?}");
        };
        assert_eq!(fault, expected);
    }
}

/// The comparison for codecs that give bytes.
pub fn same_bytes<T: AsRef<[u8]>>(frame: &T, header: &[u8], body: &[u8]) -> bool {
    let frame = frame.as_ref();
    frame.len() == header.len() + body.len() && frame.starts_with(header) && frame.ends_with(body)
}

/// Decodes an input's stream in each of its cuts.
pub fn every_cut<C, F>(codec: &C, input: &Input<'_>, events: &[Event], holds: usize, same: F)
where
    C: Decoder<Error = CodecError> + Clone,
    F: FnMut(&C::Item, &[u8], &[u8]) -> bool + Copy,
{
    for cuts in input.cuts() {
        let mut expect = Expect::new(input.stream, events, same);
        Drive { cuts, moves: input.moves(), holds }.run(
            &mut codec.clone(),
            input.stream,
            &mut expect,
        );
        expect.end();
    }
}
