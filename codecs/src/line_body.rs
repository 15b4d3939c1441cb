//! Lines, each with the bytes it announces.

use std::error::Error;
use std::fmt;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::CodecError;
use crate::frame::{limit, own};
use crate::line_raw::{LineOrRaw, LineRaw};
use crate::lines::Lines;

/// What [`LineBody`] delivers: a line without its delimiter, and what came behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineAndBody {
    /// The line.
    pub line: Bytes,
    /// All the bytes it announced; empty if it announced none.
    pub body: Result<Bytes, BodyTooLong>,
}

/// A line announced more than the limit. Nothing waits for it: the bytes are dropped as they come, before the next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyTooLong {
    /// The limit, in bytes.
    pub max: usize,
}

/// Lines, each with as many raw bytes behind it as it says: the shape of memcached's `set`, of beanstalkd's `put` and of
/// NATS's `PUB`.
///
/// A function reads from each line how many bytes it announces; the frame is complete when they have come. It should look at
/// no more than finds the length, and find it in wrong lines too: the body of a refused command is still a body, and whoever
/// takes it for lines lets those who choose a value send commands. A terminator behind the body is part of it here.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::{LineBody, Lines};
/// use tokio_util::codec::Decoder;
///
/// /// `put <n>` announces n bytes, and CR LF behind them.
/// fn announced(line: &[u8]) -> Option<u64> {
///     let n: u64 = std::str::from_utf8(line.strip_prefix(b"put ")?).ok()?.parse().ok()?;
///     Some(n.saturating_add(2))
/// }
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut codec = LineBody::new(Lines::crlf(), announced).max_body(1000);
/// let mut buffer = BytesMut::from("put 2\r\n\r\n\r\nput 5000\r\nxxx");
/// let frame = codec.decode(&mut buffer)?.unwrap();
/// assert_eq!((&frame.line[..], frame.body.unwrap()), (&b"put 2"[..], "\r\n\r\n".into()));
/// let frame = codec.decode(&mut buffer)?.unwrap();
/// assert_eq!(frame.body.unwrap_err().max, 1000);
/// assert_eq!(codec.decode(&mut buffer)?, None); // what comes of the 5002 bytes is dropped
/// # Ok(())
/// # }
/// ```
///
/// The unread bytes grow as those of a body come, up to the limit, and never by what was announced. Where bodies are larger
/// than what may be held of them, [`LineRaw`] delivers them in chunks; where the application says what is a body, it is for a
/// session.
///
/// # Errors
///
/// Those of [`Lines`]. If the stream ends within a body, [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) says how much
/// of it came. A body over the limit is no error of the codec, for the line may have to be answered.
///
/// It encodes what [`LineRaw`] does: lines, and [`LineOrRaw::Raw`] for bodies.
#[derive(Clone)]
pub struct LineBody<F> {
    wire: LineRaw,
    announced: F,
    max_body: usize,
    /// The line whose body has yet to come. Raw bytes without one are of a body that is dropped.
    waiting: Option<Bytes>,
}

impl<F> LineBody<F>
where
    F: FnMut(&[u8]) -> Option<u64>,
{
    /// These lines, and behind each as many bytes as the function says; none, if it says so or nothing.
    #[must_use]
    pub fn new(lines: Lines, announced: F) -> Self {
        Self { wire: LineRaw::new(lines), announced, max_body: 64 * 1024, waiting: None }
    }

    fn line(&mut self, line: Bytes) -> Option<LineAndBody> {
        let length = (self.announced)(&line).unwrap_or(0);
        match usize::try_from(length) {
            Ok(0) => Some(LineAndBody { line, body: Ok(Bytes::new()) }),
            Ok(length) if length <= self.max_body => {
                self.wire.raw_whole(length);
                // What waits must not keep alive all that was read with it.
                self.waiting = Some(own(line));
                None
            }
            _ => {
                self.wire.raw(length);
                Some(LineAndBody { line, body: Err(BodyTooLong { max: self.max_body }) })
            }
        }
    }

    #[inline(always)]
    fn step(
        &mut self,
        src: &mut BytesMut,
        decode: impl Fn(&mut LineRaw, &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError>,
    ) -> Result<Option<LineAndBody>, CodecError> {
        while let Some(item) = decode(&mut self.wire, src)? {
            let frame = match item {
                LineOrRaw::Line(line) => self.line(line),
                LineOrRaw::Raw(body) => self.waiting.take().map(|line| LineAndBody { line, body: Ok(body) }),
            };
            if frame.is_some() {
                return Ok(frame);
            }
        }
        Ok(None)
    }
}

impl<F> LineBody<F> {
    /// The longest body allowed, in bytes, a terminator included. Default: 65 536.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = limit(bytes);
        self
    }
}

impl<F> Decoder for LineBody<F>
where
    F: FnMut(&[u8]) -> Option<u64>,
{
    type Item = LineAndBody;
    type Error = CodecError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineAndBody>, CodecError> {
        self.step(src, LineRaw::decode)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<LineAndBody>, CodecError> {
        self.step(src, LineRaw::decode_eof)
    }
}

impl<F, T> Encoder<T> for LineBody<F>
where
    LineRaw: Encoder<T, Error = CodecError>,
{
    type Error = CodecError;

    fn encode(&mut self, item: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.wire.encode(item, dst)
    }
}

impl<F> fmt::Debug for LineBody<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LineBody");
        debug.field("wire", &self.wire).field("max_body", &self.max_body).field("waiting", &self.waiting);
        debug.finish_non_exhaustive()
    }
}

impl fmt::Display for BodyTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body is longer than the limit of {} bytes", self.max)
    }
}

impl Error for BodyTooLong {}
