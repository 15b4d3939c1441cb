//! Lines: frames that end with a delimiter.

mod delimiter;
#[cfg(test)]
mod linear;
mod newline;
mod utf8;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use self::delimiter::Delimiter;
pub use self::utf8::Utf8;
use crate::error::{CodecError, ErrorKind};
use crate::frame::{Gap, Progress, Span, limit};
use crate::framing::Framing;
use crate::own_limit;

/// Frames that end with a delimiter: CR LF, LF, or any bytes.
///
/// A line is its bytes without the delimiter, as [`Bytes`]; an empty line is a line. A line has at
/// most [`max`](Self::max) bytes, 16 384 by default, its delimiter not counted.
///
/// ```
/// use bytes::BytesMut;
/// use ropewalk_codecs::Lines;
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut lines = Lines::crlf();
/// let mut buffer = BytesMut::from("HELO example.org\r\nMAIL FR");
/// assert_eq!(lines.decode(&mut buffer)?.unwrap(), "HELO example.org");
/// assert_eq!(lines.decode(&mut buffer)?, None); // the rest has yet to come
///
/// let mut out = BytesMut::new();
/// lines.encode("250 OK", &mut out)?;
/// assert_eq!(out, "250 OK\r\n");
/// assert!(lines.encode("250 OK\r\n221 Bye", &mut out).is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Decoding fails with [`ErrorKind::TooLong`] at the first byte over the limit, as soon as it is
/// certain that the line is longer, whether its delimiter has arrived or not. The error is fatal,
/// except with [`skip_too_long`](Self::skip_too_long). At the end of the stream an unfinished line
/// is [`ErrorKind::Truncated`], except with [`final_line`](Self::final_line).
///
/// Encoding refuses a line that would not be decoded to itself: one over the limit
/// ([`ErrorKind::TooLong`]), and one that contains the delimiter, or that completes it early
/// ([`ErrorKind::DelimiterInFrame`]). So data from a peer can't smuggle a second line into an
/// answer.
#[derive(Debug, Clone)]
pub struct Lines {
    delimiter: Delimiter,
    max: usize,
    skip_too_long: bool,
    final_line: bool,
    /// How many bytes of the buffer were searched without finding a delimiter. It counts from the
    /// buffer's start, so the unread bytes may move to another buffer between two calls.
    searched: usize,
    /// Whether the buffer begins within a line already reported as too long.
    skipping: bool,
    progress: Progress,
}

impl Lines {
    /// Lines that end with CR LF. A lone CR or LF is data.
    #[must_use]
    pub fn crlf() -> Self {
        Self::ended_by(Delimiter::CrLf)
    }

    /// Lines that end with LF. A CR is data, also before the LF.
    #[must_use]
    pub fn lf() -> Self {
        Self::ended_by(Delimiter::Lf)
    }

    /// Lines that each end with LF or with CR LF. A lone CR is data.
    ///
    /// Encoding writes LF, and refuses a line that ends with CR, which would be decoded without the
    /// CR.
    #[must_use]
    pub fn any() -> Self {
        Self::ended_by(Delimiter::Any)
    }

    /// Lines that end with these bytes.
    ///
    /// # Panics
    ///
    /// If the delimiter is empty.
    #[must_use]
    pub fn delimited(delimiter: impl AsRef<[u8]>) -> Self {
        Self::ended_by(Delimiter::new(delimiter.as_ref()))
    }

    fn ended_by(delimiter: Delimiter) -> Self {
        Self {
            delimiter,
            max: 16 * 1024,
            skip_too_long: false,
            final_line: false,
            searched: 0,
            skipping: false,
            progress: Progress::default(),
        }
    }

    /// The longest line allowed, in bytes without the delimiter. Default: 16 384.
    #[must_use]
    pub fn max(mut self, bytes: usize) -> Self {
        self.max = limit(bytes);
        self
    }

    /// No limit: a peer that never sends a delimiter makes the buffer grow until memory is
    /// exhausted.
    #[must_use]
    pub fn unlimited(self) -> Self {
        self.max(usize::MAX)
    }

    /// Makes [`ErrorKind::TooLong`] recoverable: it is returned once for the line, the line is
    /// dropped up to its delimiter as it arrives, and the lines after it are delivered.
    ///
    /// If the stream ends before that delimiter, there is no second error.
    #[must_use]
    pub fn skip_too_long(mut self) -> Self {
        self.skip_too_long = true;
        self
    }

    /// Delivers an unfinished line at the end of the stream instead of failing with
    /// [`ErrorKind::Truncated`]. If the stream ends right after a delimiter, no further line is
    /// delivered.
    ///
    /// With [`any`](Self::any) a CR at the end of that line is taken for the first half of CR LF
    /// and dropped. With [`crlf`](Self::crlf) half a delimiter is data.
    #[must_use]
    pub fn final_line(mut self) -> Self {
        self.final_line = true;
        self
    }

    /// These lines as strings.
    #[must_use]
    pub fn utf8(self) -> Utf8<Self> {
        Utf8::new(self)
    }

    pub(crate) fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    /// Resets the search: the buffer will begin at another byte of the stream.
    pub(crate) fn rewind(&mut self) {
        self.searched = 0;
    }

    /// Drops the rest of a too long line. False if its delimiter has not arrived.
    #[cold]
    pub(crate) fn skip_rest(&mut self, src: &mut impl Buf) -> bool {
        if !self.skipping {
            return true;
        }
        let found = self.delimiter.find(src.chunk(), self.searched);
        let n = match &found {
            Some(found) => found.content + found.trail,
            None => self.delimiter.droppable(src.chunk()),
        };
        self.progress.skip(src, n);
        self.searched = match found {
            Some(_) => 0,
            None => self.delimiter.searched(src.remaining()),
        };
        self.skipping = found.is_none();
        !self.skipping
    }

    /// Reports the line at the start of `src` as too long.
    fn too_long(&mut self, src: &mut impl Buf) -> CodecError {
        let kind = ErrorKind::TooLong { max: self.max };
        self.searched = 0;
        if !self.skip_too_long {
            return self.progress.fail(src, kind, self.max);
        }
        // The error always consumes exactly `max` bytes, so that a caller that counts them gets the
        // same offsets in every segmentation. No delimiter begins in them, because the line would
        // then be short enough.
        self.progress.skip(src, self.max);
        self.skipping = true;
        CodecError::new(kind).at(self.progress.consumed()).recoverable()
    }

    /// Where the next line lies.
    #[inline(always)]
    fn find(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        if self.progress.is_over(src) || self.skipping && !self.skip_rest(src) {
            return Ok(None);
        }
        match self.delimiter.find(src.chunk(), self.searched) {
            Some(line) if line.content <= self.max => {
                self.searched = 0;
                Ok(Some(line))
            }
            found => self.no_line(src, found.is_some()).map(|()| None),
        }
    }

    /// Handles a buffer without a line, or with one that is too long.
    #[cold]
    fn no_line(&mut self, src: &mut impl Buf, found: bool) -> Result<(), CodecError> {
        if found || self.delimiter.is_over(src.chunk(), self.max) {
            return Err(self.too_long(src));
        }
        self.searched = self.delimiter.searched(src.remaining());
        own_limit::note(src.chunk(), 0);
        Ok(())
    }

    /// Checks that this line, once encoded, is decoded to itself.
    #[inline(always)]
    fn check(&self, line: &[u8]) -> Result<(), CodecError> {
        if line.len() > self.max || !self.delimiter.ends_only(line) {
            Err(self.refuse(line))
        } else {
            Ok(())
        }
    }

    /// Writes what comes after a line; a frame sent without a copy comes before it.
    pub(crate) fn encode_around(&self, line: &[u8], dst: &mut BytesMut) -> Result<Gap, CodecError> {
        self.check(line)?;
        let at = dst.len();
        self.delimiter.put(dst);
        Ok(Gap { at, copied: 0 })
    }

    /// Why a line can't be encoded.
    #[cold]
    fn refuse(&self, line: &[u8]) -> CodecError {
        let too_long = ErrorKind::TooLong { max: self.max };
        CodecError::new(if line.len() > self.max { too_long } else { ErrorKind::DelimiterInFrame })
    }

    /// Where the next line lies once no more bytes will come.
    fn find_last(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        if let Some(line) = self.find(src)? {
            return Ok(Some(line));
        }
        if self.skipping {
            // The skipped line was reported already; a rest of it may be in the buffer.
            self.progress.skip(src, src.remaining());
            self.rewind();
        }
        if !src.has_remaining() || !self.final_line {
            return self.progress.end(src);
        }
        let span = self.delimiter.unfinished(src.chunk());
        if span.content > self.max {
            // The bytes that could have been the start of a delimiter are content after all.
            return Err(self.too_long(src));
        }
        self.rewind();
        Ok(Some(span))
    }
}

impl Framing for Lines {
    #[inline(always)]
    fn next_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        Ok(self.find(bytes)?.map(|line| self.progress.lend(bytes, line)))
    }

    fn last_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError> {
        Ok(self.find_last(bytes)?.map(|line| self.progress.lend(bytes, line)))
    }
}

impl Decoder for Lines {
    type Item = Bytes;
    type Error = CodecError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(self.find(src)?.map(|line| self.progress.take(src, line)))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(self.find_last(src)?.map(|line| self.progress.take(src, line)))
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Lines {
    type Error = CodecError;

    // Inlined as decoding is: in a call the line would be passed by its address, and dropped by
    // another call.
    #[inline(always)]
    fn encode(&mut self, line: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        let line = line.as_ref();
        self.check(line)?;
        // Includes the most common delimiters, so that the buffer grows only once.
        dst.reserve(line.len() + 2);
        dst.extend_from_slice(line);
        self.delimiter.put(dst);
        Ok(())
    }
}
