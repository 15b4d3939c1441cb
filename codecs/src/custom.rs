//! Codecs of your own: a [`FindFrame`] says where a frame lies, and [`Strict`] does the rest.
//!
//! Any `Decoder` and `Encoder` is a codec. A codec for untrusted peers has to do more than find
//! frames: keep a limit, examine no byte twice, report errors with their offset in the stream,
//! deliver nothing after an error, and refuse half a frame at the end. [`Strict`] is a codec that
//! does all this, around a [`FindFrame`] that says where a frame lies:
//!
//! ```
//! use ropewalk_codecs::custom::{FindFrame, Span, Strict};
//! use ropewalk_codecs::{CodecError, ErrorKind};
//! use bytes::BytesMut;
//! use tokio_util::codec::Encoder;
//!
//! /// A sentence of NMEA 0183, as GPS receivers send them: `$`, a text, `*`, the text's checksum in hex, CR LF.
//! #[derive(Clone)]
//! struct Sentence;
//!
//! impl FindFrame for Sentence {
//!     fn find_frame(&mut self, bytes: &[u8], seen: usize) -> Result<Option<Span>, CodecError> {
//!         if bytes[0] != b'$' {
//!             return Err(CodecError::new(ErrorKind::Other("a sentence begins with $".into())));
//!         }
//!         // The end has 5 bytes, of which 4 may have been there the last time.
//!         let from = seen.saturating_sub(4).max(1);
//!         let Some(star) = (from..bytes.len()).find(|&at| bytes[at] == b'*') else { return Ok(None) };
//!         let Some(end) = bytes.get(star..star + 5) else { return Ok(None) };
//!         if end != ending(&bytes[1..star]).as_bytes() {
//!             return Err(CodecError::new(ErrorKind::MissingTerminator).at(star as u64));
//!         }
//!         Ok(Some(Span { lead: 1, content: star - 1, trail: 5 }))
//!     }
//! }
//!
//! impl<T: AsRef<[u8]>> Encoder<T> for Sentence {
//!     type Error = CodecError;
//!
//!     fn encode(&mut self, text: T, dst: &mut BytesMut) -> Result<(), CodecError> {
//!         let text = text.as_ref();
//!         if text.contains(&b'*') {
//!             return Err(CodecError::new(ErrorKind::DelimiterInFrame));
//!         }
//!         dst.extend_from_slice(&[b"$", text, ending(text).as_bytes()].concat());
//!         Ok(())
//!     }
//! }
//!
//! fn ending(text: &[u8]) -> String {
//!     format!("*{:02X}\r\n", text.iter().fold(0, |sum, byte| sum ^ byte))
//! }
//!
//! // The standard allows 82 bytes, with everything around the text.
//! let sentences = || Strict::new(Sentence).max(82);
//!
//! // In a test: the seven laws, of the crate `ropewalk-laws`.
//! ropewalk_laws::Laws::new(sentences)
//!     .streams(["$GP*17\r\n$*00\r\n", "$GP*18\r\n", "GP*17\r\n", "$half"])
//!     .frames(["GP", "", "a*b"].map(bytes::Bytes::from))
//!     .limit(82)
//!     .window(5)
//!     .check();
//! ```
//!
//! Such a codec is used like any other, also under [`parse`](crate::CodecExt::parse) and
//! [`map`](crate::CodecExt::map). A `Decoder` written by hand should take its frames out of the
//! buffer with [`take_frame`].

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{BoxError, CodecError, ErrorKind};
use crate::frame::{Progress, limit};
use crate::framing::Framing;
use crate::own_limit;

pub use crate::frame::{Span, take_frame};

/// Finds the frames of a format in its bytes: the part of a codec that [`Strict`] can't do.
pub trait FindFrame {
    /// Returns where in `bytes` the first frame lies. It begins with the first byte, and there is
    /// at least one.
    ///
    /// Return the span as soon as the length of the frame is known, also if its bytes have not all
    /// arrived: [`Strict`] waits for the rest. Return `None` if these bytes don't tell the length
    /// yet.
    ///
    /// After `None` the next call gets the same bytes with more behind them. `seen` is the number
    /// of bytes that the previous call got for this frame, and 0 at the first call. A format that
    /// searches for the end of a frame can go on from there; if the end has several bytes, all of
    /// them but the last may have been seen, so it goes on that much earlier. The result must
    /// depend on the bytes alone, not on the sizes in which they arrive.
    ///
    /// # Errors
    ///
    /// If the bytes are not the beginning of a frame. [`CodecError::at`] sets the index in `bytes`
    /// of the first wrong byte (0 if it isn't called), from which [`Strict`] computes the offset in
    /// the stream. Every error is fatal, because it is unknown where the next frame begins. A
    /// complete frame with wrong content is not an error here, but one of
    /// [`parse`](crate::CodecExt::parse) or [`try_map`](crate::CodecExt::try_map).
    fn find_frame(&mut self, bytes: &[u8], seen: usize) -> Result<Option<Span>, CodecError>;
}

/// A codec made from a [`FindFrame`]: its frames are bounded, its errors have offsets, it is fused
/// after an error, and it delivers and writes no half frames. The [module](self) has an example.
///
/// A frame has at most [`max`](Self::max) bytes, 65 536 by default, including everything around it.
/// It is delivered as [`Bytes`], by [`take_frame`], or lent, by [`Framing`].
///
/// # Errors
///
/// Decoding returns the errors of the format; [`ErrorKind::TooLong`] as soon as a frame is certain
/// to exceed the limit, placed at the frame's first byte; and [`ErrorKind::Truncated`] if the
/// stream ends within a frame. All are fatal.
///
/// Encoding is that of the format, if it is an [`Encoder`]. A frame whose encoded form exceeds the
/// limit is [`ErrorKind::TooLong`]. After any error the buffer is unchanged.
#[derive(Debug, Clone)]
pub struct Strict<F> {
    format: F,
    max: usize,
    /// How many bytes of the frame at the start of the buffer the format has seen.
    seen: usize,
    /// Where that frame lies, once it is known.
    found: Option<Span>,
    progress: Progress,
}

impl<F> Strict<F> {
    /// The frames of a format, of up to 65 536 bytes each.
    #[must_use]
    pub fn new(format: F) -> Self {
        Self { format, max: 64 * 1024, seen: 0, found: None, progress: Progress::default() }
    }

    /// The most bytes a frame may have, including those before and after its content. Default: 65
    /// 536.
    #[must_use]
    pub fn max(mut self, bytes: usize) -> Self {
        self.max = limit(bytes);
        self
    }

    /// No limit: a peer that never ends a frame makes the buffer grow until memory is exhausted.
    #[must_use]
    pub fn unlimited(self) -> Self {
        self.max(usize::MAX)
    }

    /// The format.
    pub fn get_ref(&self) -> &F {
        &self.format
    }

    /// The format. It may be changed between two frames.
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.format
    }

    /// The format, by value.
    pub fn into_inner(self) -> F {
        self.format
    }
}

impl<F: FindFrame> Strict<F> {
    #[inline]
    fn find(&mut self, src: &mut impl Buf) -> Result<Option<Span>, CodecError> {
        if self.progress.is_over(src) || !src.has_remaining() {
            return Ok(None);
        }
        match self.whole_frame(src.chunk()) {
            Ok(Some(span)) => {
                self.seen = 0;
                self.found = None;
                Ok(Some(span))
            }
            Ok(None) => {
                own_limit::note(src.chunk(), 0);
                Ok(None)
            }
            Err(error) => Err(self.fail(src, error)),
        }
    }

    /// Where the frame lies, if all of it is there.
    #[inline]
    fn whole_frame(&mut self, bytes: &[u8]) -> Result<Option<Span>, CodecError> {
        let span = match self.found {
            Some(span) => span,
            None => match self.look(bytes)? {
                Some(span) => span,
                None => return Ok(None),
            },
        };
        let whole = span.total() <= bytes.len();
        self.found = Some(span);
        Ok(whole.then_some(span))
    }

    /// Asks the format.
    #[inline]
    fn look(&mut self, bytes: &[u8]) -> Result<Option<Span>, CodecError> {
        let max = self.max;
        let too_long = || Err(CodecError::new(ErrorKind::TooLong { max }));
        // Bytes beyond the limit can't belong to this frame. They are not shown to the format, so
        // that its result doesn't depend on how many bytes arrived at once.
        let shown = &bytes[..bytes.len().min(self.max)];
        if shown.is_empty() {
            return too_long();
        }
        match self.format.find_frame(shown, self.seen)? {
            Some(Span { lead: 0, content: 0, trail: 0 }) => Err(CodecError::new(ErrorKind::Other(
                "the format found a frame of no bytes, which would repeat without end".into(),
            ))),
            Some(span) if span.checked_total().is_none_or(|total| total > max) => too_long(),
            None if shown.len() == max => too_long(),
            found => {
                self.seen = shown.len();
                Ok(found)
            }
        }
    }

    /// Ends the decoder with an error whose offset, if any, is an index of the unread bytes.
    #[cold]
    fn fail(&mut self, src: &mut impl Buf, error: CodecError) -> CodecError {
        let offset = self.progress.consumed() + error.offset().unwrap_or(0);
        self.progress.fuse(src);
        error.at(offset).fatal()
    }
}

impl<F: FindFrame> Framing for Strict<F> {
    #[inline]
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

impl<F: FindFrame> Decoder for Strict<F> {
    type Item = Bytes;
    type Error = CodecError;

    #[inline]
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

impl<F, T> Encoder<T> for Strict<F>
where
    F: Encoder<T>,
    <F as Encoder<T>>::Error: Into<BoxError>,
{
    type Error = CodecError;

    fn encode(&mut self, frame: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        let before = dst.len();
        let encoded = match self.format.encode(frame, dst) {
            Ok(()) if dst.len().saturating_sub(before) > self.max => {
                Err(CodecError::new(ErrorKind::TooLong { max: self.max }))
            }
            encoded => encoded.map_err(CodecError::from_any),
        };
        if encoded.is_err() {
            dst.truncate(before);
        }
        encoded
    }
}
