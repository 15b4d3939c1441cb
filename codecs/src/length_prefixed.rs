//! Frames that begin with their length.

mod prefix;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use self::prefix::Prefix;
use crate::error::{CodecError, ErrorKind};
use crate::frame::{Gap, Progress, Span, limit};
use crate::framing::Framing;
use crate::own_limit;

/// Frames that begin with their length: 8 to 64 bits, big endian unless asked otherwise, or a
/// varint.
///
/// The frame is what follows the length, as [`Bytes`]; length 0 is an empty frame. With
/// [`header`](Self::header) it is the header before the length and what follows it, without the
/// length itself. A frame has at most [`max`](Self::max) bytes, 65 536 by default. The limit is
/// checked as soon as the length has arrived; nothing is allocated for a frame that was only
/// announced.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::LengthPrefixed;
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut codec = LengthPrefixed::u16().max(1000);
/// let mut buffer = BytesMut::new();
/// codec.encode("hello", &mut buffer)?;
/// assert_eq!(buffer, "\0\x05hello");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello");
///
/// // Postgres: a type byte, then a length that counts itself but not the type.
/// let mut codec = LengthPrefixed::u32().inclusive().header(1);
/// let mut buffer = BytesMut::from("Q\0\0\0\x0dselect 1\0");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "Qselect 1\0");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Every error of decoding is fatal: [`ErrorKind::TooLong`] for a length over the limit and
/// [`ErrorKind::BadLength`] for one that is negative once adjusted, both at the first byte of the
/// length; [`ErrorKind::BadLength`] at the byte that makes a varint longer than 10 bytes, than 64
/// bits or than its shortest form; [`ErrorKind::Truncated`] if the stream ends within a frame.
///
/// Encoding fails with [`ErrorKind::TooLong`] for a frame over the limit, or longer than the prefix
/// can express, and with [`ErrorKind::BadLength`] for one that is shorter than its header or whose
/// announced length would be negative.
#[derive(Debug, Clone)]
pub struct LengthPrefixed {
    prefix: Prefix,
    max: usize,
    inclusive: bool,
    header: usize,
    adjust: i64,
    /// Whether the number on the wire is the size of the frame.
    is_plain: bool,
    progress: Progress,
}

impl LengthPrefixed {
    /// A length of one byte: frames of up to 255.
    #[must_use]
    pub fn u8() -> Self {
        Self::fixed(1)
    }

    /// A length of two bytes, big endian.
    #[must_use]
    pub fn u16() -> Self {
        Self::fixed(2)
    }

    /// A length of three bytes, big endian.
    #[must_use]
    pub fn u24() -> Self {
        Self::fixed(3)
    }

    /// A length of four bytes, big endian.
    #[must_use]
    pub fn u32() -> Self {
        Self::fixed(4)
    }

    /// A length of eight bytes, big endian.
    #[must_use]
    pub fn u64() -> Self {
        Self::fixed(8)
    }

    /// A length of one to ten bytes: LEB128 (seven bits a byte, the lowest first), in its shortest
    /// form only.
    #[must_use]
    pub fn varint() -> Self {
        Self::new(Prefix::Varint)
    }

    fn fixed(width: usize) -> Self {
        Self::new(Prefix::Fixed { width, little: false })
    }

    fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            max: 64 * 1024,
            inclusive: false,
            header: 0,
            adjust: 0,
            is_plain: true,
            progress: Progress::default(),
        }
    }

    /// The lowest byte of the length comes first.
    ///
    /// # Panics
    ///
    /// With a varint, which has one byte order.
    #[must_use]
    pub fn little_endian(self) -> Self {
        self.endian(true)
    }

    /// The highest byte of the length comes first, which is the default.
    ///
    /// # Panics
    ///
    /// With a varint, which has one byte order.
    #[must_use]
    pub fn big_endian(self) -> Self {
        self.endian(false)
    }

    fn endian(mut self, little: bool) -> Self {
        let Prefix::Fixed { width, .. } = self.prefix else {
            // A mistake of the program, documented at both callers; no peer causes it.
            panic!("a varint is neither big nor little endian");
        };
        self.prefix = Prefix::Fixed { width, little };
        self
    }

    /// The longest frame allowed, in bytes with its header and without its length. Default: 65 536.
    ///
    /// # Panics
    ///
    /// If the other settings make every frame longer than this.
    #[must_use]
    pub fn max(mut self, bytes: usize) -> Self {
        self.max = limit(bytes);
        self.checked()
    }

    /// No limit except that of the prefix: a peer that announces a large frame makes the buffer
    /// grow as long as it keeps sending.
    #[must_use]
    pub fn unlimited(self) -> Self {
        self.max(usize::MAX)
    }

    /// The length counts its own bytes too. It does not count a header's: for that, see
    /// [`adjust`](Self::adjust).
    ///
    /// # Panics
    ///
    /// With a varint, whose size would depend on itself; or if with the other settings no frame is
    /// possible.
    #[must_use]
    pub fn inclusive(mut self) -> Self {
        assert!(
            matches!(self.prefix, Prefix::Fixed { .. }),
            "a varint cannot count itself: its size would depend on its value"
        );
        self.inclusive = true;
        self.checked()
    }

    /// The first `bytes` bytes of a frame stand before its length, which does not count them.
    ///
    /// # Panics
    ///
    /// If the header alone is over the limit: set [`max`](Self::max) first.
    #[must_use]
    pub fn header(mut self, bytes: usize) -> Self {
        self.header = bytes;
        self.checked()
    }

    /// The frame has this many bytes more than its length says, or fewer if negative. A length that
    /// counts its header of `k` bytes is `.header(k).adjust(-k)`.
    ///
    /// # Panics
    ///
    /// If the prefix or the limit then allow no frame at all: set [`max`](Self::max) first.
    #[must_use]
    pub fn adjust(mut self, bytes: i64) -> Self {
        self.adjust = bytes;
        self.checked()
    }

    /// Added to the number on the wire, it gives the number of bytes that follow. All such sums are
    /// of numbers below 2^65, so 128 bits cannot overflow.
    fn offset(&self) -> i128 {
        let own = if self.inclusive { self.prefix.most_bytes() } else { 0 };
        i128::from(self.adjust) - own as i128
    }

    /// The longest frame that the prefix can announce.
    fn sayable(&self) -> i128 {
        i128::from(self.prefix.largest()) + self.offset() + self.header as i128
    }

    fn checked(mut self) -> Self {
        self.is_plain = self.offset() == 0 && self.header == 0;
        let shortest = self.header as i128 + self.offset().max(0);
        assert!(
            shortest <= self.max as i128,
            "every frame would be over the limit of {} bytes",
            self.max
        );
        assert!(shortest <= self.sayable(), "every length would be negative once adjusted");
        self
    }

    #[inline(always)]
    fn find(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        let found = self.look(src)?;
        if found.is_none() {
            own_limit::note(src.chunk(), self.whole(src.chunk()));
        }
        Ok(found)
    }

    #[inline(always)]
    fn look(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        if self.progress.is_over(src) {
            return Ok(None);
        }
        // The prefix has at most ten bytes: reading it again is cheaper than storing its value.
        let Some(rest) = src.chunk().get(self.header..) else {
            return Ok(None);
        };
        let (number, width) = match self.prefix.read(rest) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(None),
            Err(index) => {
                return Err(self.progress.fail(src, ErrorKind::BadLength, self.header + index));
            }
        };
        let content = match self.frame_size(number) {
            Ok(size) => size,
            Err(kind) => return Err(self.progress.fail(src, kind, self.header)),
        };
        if src.remaining() - width < content {
            return Ok(None);
        }
        Ok(Some(Span { lead: width, content, trail: 0 }))
    }

    /// The size of the frame at the start of `bytes`, including its length; 0 if the length has not
    /// arrived.
    #[cold]
    fn whole(&self, bytes: &[u8]) -> usize {
        let Some(Ok(Some((number, width)))) =
            bytes.get(self.header..).map(|rest| self.prefix.read(rest))
        else {
            return 0;
        };
        self.frame_size(number).map_or(0, |content| content + width)
    }

    /// The size of the frame announced by `number`, including its header.
    #[inline(always)]
    fn frame_size(&self, number: u64) -> Result<usize, ErrorKind> {
        match usize::try_from(number) {
            // The number is the size.
            Ok(size) if self.is_plain && size <= self.max => Ok(size),
            _ => self.adjusted_size(number),
        }
    }

    fn adjusted_size(&self, number: u64) -> Result<usize, ErrorKind> {
        let follow = usize::try_from(i128::from(number) + self.offset());
        let too_long = ErrorKind::TooLong { max: self.max };
        match follow {
            Ok(follow) => {
                follow.checked_add(self.header).filter(|&size| size <= self.max).ok_or(too_long)
            }
            Err(_) if i128::from(number) + self.offset() < 0 => Err(ErrorKind::BadLength),
            Err(_) => Err(too_long),
        }
    }

    /// Writes the frame's header and its length; the rest of the frame, sent without a copy, comes
    /// after them.
    pub(crate) fn encode_around(
        &self,
        frame: &[u8],
        dst: &mut BytesMut,
    ) -> Result<Gap, CodecError> {
        let (number, header, _) = self.announce(frame).map_err(CodecError::new)?;
        dst.extend_from_slice(header);
        self.prefix.write(number, dst);
        Ok(Gap { at: dst.len(), copied: header.len() })
    }

    /// The number that announces this frame, and the parts of the frame before and after that
    /// number.
    #[inline]
    fn announce<'a>(&self, frame: &'a [u8]) -> Result<(u64, &'a [u8], &'a [u8]), ErrorKind> {
        let number = frame.len() as u64;
        if self.is_plain && frame.len() <= self.max && number <= self.prefix.largest() {
            return Ok((number, &[], frame));
        }
        self.adjusted(frame)
    }

    fn adjusted<'a>(&self, frame: &'a [u8]) -> Result<(u64, &'a [u8], &'a [u8]), ErrorKind> {
        if frame.len() > self.max {
            return Err(ErrorKind::TooLong { max: self.max });
        }
        if frame.len() as i128 > self.sayable() {
            return Err(ErrorKind::TooLong {
                max: usize::try_from(self.sayable()).unwrap_or(self.max),
            });
        }
        let (header, body) = frame.split_at_checked(self.header).ok_or(ErrorKind::BadLength)?;
        let number =
            u64::try_from(body.len() as i128 - self.offset()).map_err(|_| ErrorKind::BadLength)?;
        Ok((number, header, body))
    }
}

impl Framing for LengthPrefixed {
    /// # Panics
    ///
    /// If there is a [`header`](LengthPrefixed::header): such a frame is not in one piece.
    #[inline(always)]
    fn next_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        assert!(
            self.header == 0,
            "a frame with a header before its length is not in one piece: use it as a Decoder"
        );
        Ok(self.find(bytes)?.map(|span| self.progress.lend(bytes, span)))
    }

    fn last_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        match self.next_frame(bytes)? {
            Some(frame) => Ok(Some(frame)),
            None => self.progress.end(bytes),
        }
    }
}

impl Decoder for LengthPrefixed {
    type Item = Bytes;
    type Error = CodecError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let Some(span) = self.find(src)? else {
            return Ok(None);
        };
        if self.header > 0 {
            // The header moves over the length, so that the frame is in one piece.
            src.copy_within(..self.header, span.lead);
        }
        Ok(Some(self.progress.take(src, span)))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match self.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None => self.progress.end(src),
        }
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for LengthPrefixed {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, frame: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        let frame = frame.as_ref();
        let (number, header, body) = self.announce(frame).map_err(CodecError::new)?;
        dst.reserve(frame.len() + self.prefix.most_bytes());
        dst.extend_from_slice(header);
        self.prefix.write(number, dst);
        dst.extend_from_slice(body);
        Ok(())
    }
}
