//! Netstrings: `5:hello,`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{CodecError, ErrorKind};
use crate::frame::{Progress, Span, limit};
use crate::framing::Framing;

/// Netstrings: the length in decimal digits, a colon, that many bytes, a comma. The frame is those bytes, as [`Bytes`].
///
/// The length is `0`, or digits that do not begin with 0: no sign, no blank, no leading zero. A frame has at most
/// [`max`](Self::max) bytes, 65 536 by default.
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
/// Every error of decoding is fatal and comes at the first byte that cannot be right:
/// [`ErrorKind::BadLength`] where the length has a byte that does not belong there, [`ErrorKind::TooLong`] at the digit
/// that takes it over the limit, [`ErrorKind::MissingTerminator`] where the comma should be, and
/// [`ErrorKind::Truncated`] if the stream ends within a netstring.
///
/// Encoding a frame over the limit is [`ErrorKind::TooLong`].
#[derive(Debug, Clone)]
pub struct Netstring {
    max: usize,
    head: Head,
    progress: Progress,
}

/// What is known of the length at the start of the buffer, so that no digit is looked at twice.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    /// The digits read.
    digits: usize,
    length: usize,
    /// Whether the colon after them was read.
    colon: bool,
}

impl Head {
    /// Reads on to the colon. True if it has come.
    #[inline(always)]
    fn read(&mut self, buffer: &[u8], max: usize) -> Result<bool, ErrorKind> {
        while !self.colon {
            let Some(&byte) = buffer.get(self.digits) else {
                return Ok(false);
            };
            match byte {
                b':' if self.digits > 0 => self.colon = true,
                // A length that began with 0 is 0.
                b'0'..=b'9' if self.digits == 0 || self.length > 0 => {
                    let digit = usize::from(byte - b'0');
                    let length = self.length.checked_mul(10).and_then(|length| length.checked_add(digit));
                    self.length = length.filter(|&length| length <= max).ok_or(ErrorKind::TooLong { max })?;
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

    /// No limit: a peer that announces a large frame makes the buffer grow as long as it goes on sending.
    #[must_use]
    pub fn unlimited(self) -> Self {
        self.max(usize::MAX)
    }

    #[inline(always)]
    fn find(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        if self.progress.is_over(src) {
            return Ok(None);
        }
        match self.head.read(src.chunk(), self.max) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(kind) => return Err(self.progress.fail(src, kind, self.head.digits)),
        }
        let span = Span { lead: self.head.digits + 1, content: self.head.length, trail: 1 };
        let end = span.lead + span.content;
        match src.chunk().get(end) {
            Some(b',') => {}
            Some(_) => return Err(self.progress.fail(src, ErrorKind::MissingTerminator, end)),
            None => return Ok(None),
        }
        self.head = Head::default();
        Ok(Some(span))
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
        if frame.len() > self.max {
            return Err(CodecError::new(ErrorKind::TooLong { max: self.max }));
        }
        let mut digits = [0; 20];
        let digits = decimal(frame.len(), &mut digits);
        dst.reserve(digits.len() + frame.len() + 2);
        dst.extend_from_slice(digits);
        dst.put_u8(b':');
        dst.extend_from_slice(frame);
        dst.put_u8(b',');
        Ok(())
    }
}

/// The digits of `n`, written at the end of `room`, which holds those of any `usize`.
fn decimal(mut n: usize, room: &mut [u8; 20]) -> &[u8] {
    const DIGITS: &[u8; 10] = b"0123456789";
    let mut start = room.len();
    loop {
        start -= 1;
        room[start] = DIGITS[n % 10];
        n /= 10;
        if n == 0 {
            return &room[start..];
        }
    }
}
