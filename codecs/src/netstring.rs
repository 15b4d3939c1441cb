//! Netstrings: `5:hello,`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{CodecError, ErrorKind};
use crate::frame::{Gap, Progress, Span, limit};
use crate::framing::Framing;
use crate::own_limit;

/// Netstrings: the length in decimal digits, a colon, that many bytes, a comma. The frame is those
/// bytes, as [`Bytes`].
///
/// The length is `0`, or digits that do not begin with 0: a sign, a blank and a leading zero are
/// errors. A frame has at most [`max`](Self::max) bytes, 65 536 by default.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::Netstring;
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut netstring = Netstring::new().max(999);
/// let mut buffer = BytesMut::new();
/// netstring.encode("hello", &mut buffer)?;
/// assert_eq!(buffer, "5:hello,");
/// assert_eq!(netstring.decode(&mut buffer)?.unwrap(), "hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Every error of decoding is fatal and placed at the first invalid byte: [`ErrorKind::BadLength`]
/// at a byte of the length that is not allowed there, [`ErrorKind::TooLong`] at the digit that
/// takes the length over the limit, [`ErrorKind::MissingTerminator`] where the comma should be, and
/// [`ErrorKind::Truncated`] if the stream ends within a netstring.
///
/// Encoding a frame over the limit is [`ErrorKind::TooLong`].
#[derive(Debug, Clone)]
pub struct Netstring {
    max: usize,
    head: Head,
    progress: Progress,
}

/// The part of the length that was read, so that no digit is read twice.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    /// The digits read.
    digits: usize,
    length: usize,
    /// Whether the colon after them was read.
    colon: bool,
}

impl Head {
    /// Reads on to the colon. True if the colon has arrived.
    #[inline(always)]
    fn read(&mut self, buffer: &[u8], max: usize) -> Result<bool, ErrorKind> {
        while !self.colon {
            let Some(&byte) = buffer.get(self.digits) else {
                return Ok(false);
            };
            match byte {
                b':' if self.digits > 0 => self.colon = true,
                // No digit may follow a first 0.
                b'0'..=b'9' if self.digits == 0 || self.length > 0 => {
                    let digit = usize::from(byte - b'0');
                    match self.length.checked_mul(10).and_then(|length| length.checked_add(digit)) {
                        Some(length) if length <= max => self.length = length,
                        _ => return Err(ErrorKind::TooLong { max }),
                    }
                    self.digits += 1;
                }
                _ => return Err(ErrorKind::BadLength),
            }
        }
        Ok(true)
    }
}

impl Netstring {
    /// Netstrings of up to 65 536 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self { max: 64 * 1024, head: Head::default(), progress: Progress::default() }
    }

    /// The longest frame allowed, in bytes without length, colon and comma. Default: 65 536.
    #[must_use]
    pub fn max(mut self, bytes: usize) -> Self {
        self.max = limit(bytes);
        self
    }

    /// No limit: a peer that announces a large frame makes the buffer grow as long as it keeps
    /// sending.
    #[must_use]
    pub fn unlimited(self) -> Self {
        self.max(usize::MAX)
    }

    /// Checks that a frame is within the limit.
    #[inline(always)]
    fn check(&self, frame: &[u8]) -> Result<(), CodecError> {
        if frame.len() > self.max {
            Err(CodecError::new(ErrorKind::TooLong { max: self.max }))
        } else {
            Ok(())
        }
    }

    /// Writes the bytes before and after a frame that is sent without a copy.
    pub(crate) fn encode_around(
        &self,
        frame: &[u8],
        dst: &mut BytesMut,
    ) -> Result<Gap, CodecError> {
        self.check(frame)?;
        dst.reserve(AROUND);
        put_head(dst, frame.len());
        let at = dst.len();
        dst.put_u8(b',');
        Ok(Gap { at, copied: 0 })
    }

    #[inline(always)]
    fn find(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        if self.progress.is_over(src) {
            return Ok(None);
        }
        // Taken out of `self`, so that it stays in registers. It is put back only if the frame is
        // incomplete, which is rare.
        let mut head = std::mem::take(&mut self.head);
        let span = match head.read(src.chunk(), self.max) {
            Ok(true) => Span { lead: head.digits + 1, content: head.length, trail: 1 },
            Ok(false) => {
                self.head = head;
                own_limit::note(src.chunk(), 0);
                return Ok(None);
            }
            Err(kind) => return Err(self.progress.fail(src, kind, head.digits)),
        };
        let end = span.lead + span.content;
        match src.chunk().get(end) {
            Some(b',') => Ok(Some(span)),
            Some(_) => Err(self.progress.fail(src, ErrorKind::MissingTerminator, end)),
            None => {
                self.head = head;
                own_limit::note(src.chunk(), span.total());
                Ok(None)
            }
        }
    }
}

impl Default for Netstring {
    fn default() -> Self {
        Self::new()
    }
}

impl Framing for Netstring {
    #[inline(always)]
    fn next_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        Ok(self.find(bytes)?.map(|span| self.progress.lend(bytes, span)))
    }

    fn last_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        match self.next_frame(bytes)? {
            Some(frame) => Ok(Some(frame)),
            None => self.progress.end(bytes),
        }
    }
}

impl Decoder for Netstring {
    type Item = Bytes;
    type Error = CodecError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(self.find(src)?.map(|span| self.progress.take(src, span)))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match self.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None => self.progress.end(src),
        }
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Netstring {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, frame: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        let frame = frame.as_ref();
        self.check(frame)?;
        dst.reserve(frame.len() + AROUND);
        put_head(dst, frame.len());
        dst.extend_from_slice(frame);
        dst.put_u8(b',');
        Ok(())
    }
}

/// The most bytes around the content: a length, its colon, and the comma.
const AROUND: usize = 22;

/// Writes `n` in digits, and a colon.
#[inline(always)]
fn put_head(dst: &mut BytesMut, n: usize) {
    // Up to 7 digits are put together in a register, from the last to the first, and stored at
    // once.
    if n >= 10_000_000 {
        dst.extend_from_slice(n.to_string().as_bytes());
        return dst.put_u8(b':');
    }
    let mut head = u64::from(b':');
    let mut len = 1;
    let mut rest = n;
    loop {
        head = (head << 8) | (u64::from(b'0') + (rest % 10) as u64);
        len += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let end = dst.len() + len;
    dst.put_u64_le(head);
    dst.truncate(end);
}
