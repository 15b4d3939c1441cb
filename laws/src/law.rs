//! The seven laws.

use std::fmt;

/// A law of codecs: what it says, how it is checked, what the check does not show, and a wrong
/// codec that it catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// The frames and the errors do not depend on how the bytes were cut into reads.
    ///
    /// Checked by comparing each stream in one read with the same stream cut in two at every byte,
    /// in three, in reads of 1 to 9 bytes, and at random; before every second read the unread bytes
    /// move to another buffer. In streams of more than 200 bytes the places of single cuts are
    /// random too.
    ///
    /// This codec searches only new bytes, and misses a CR LF that arrives in two reads:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use std::io;
    /// # use tokio_util::codec::Decoder;
    /// #[derive(Default)]
    /// struct SplitDelimiter {
    ///     searched: usize,
    /// }
    ///
    /// impl Decoder for SplitDelimiter {
    ///     type Item = BytesMut;
    ///     type Error = io::Error;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    ///         let new = &src[self.searched..];
    ///         let Some(at) = new.windows(2).position(|two| two == b"\r\n") else {
    ///             self.searched = src.len(); // less one would be right
    ///             return Ok(None);
    ///         };
    ///         let line = src.split_to(self.searched + at);
    ///         src.advance(2);
    ///         self.searched = 0;
    ///         Ok(Some(line))
    ///     }
    /// }
    ///
    /// let violation = Laws::new(SplitDelimiter::default).streams(["one\r\ntwo\r\n"]).try_check().unwrap_err();
    /// assert_eq!(violation.law, Law::AnySegmentation);
    /// assert_eq!(violation.segmentation, [b"\r", b"\n"]); // shrunk to what matters
    /// ```
    AnySegmentation,
    /// Encoded frames are decoded to the same frames, and a frame that would not be is refused.
    ///
    /// Checked on the given [frames](super::Laws::frames): those that encoding refuses are left
    /// out, and exactly the others have to be decoded, in order.
    ///
    /// This codec sends any text, even a second line within the first:
    ///
    /// ```
    /// # use bytes::{Bytes, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use ropewalk_codecs::{CodecError, Lines};
    /// # use tokio_util::codec::{Decoder, Encoder};
    /// struct Smuggler(Lines);
    ///
    /// impl Decoder for Smuggler {
    ///     type Item = Bytes;
    ///     type Error = CodecError;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
    ///         self.0.decode(src)
    ///     }
    /// }
    ///
    /// impl Encoder<Bytes> for Smuggler {
    ///     type Error = CodecError;
    ///
    ///     fn encode(&mut self, line: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
    ///         dst.extend_from_slice(&line);
    ///         dst.extend_from_slice(b"\r\n");
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let laws = Laws::new(|| Smuggler(Lines::crlf())).frames([Bytes::from("250 OK\r\n221 Bye")]);
    /// assert_eq!(laws.try_check().unwrap_err().law, Law::RoundTrip);
    /// ```
    RoundTrip,
    /// A frame is delivered only when it is whole, and at the end of the stream a partial one is an
    /// error.
    ///
    /// Checked by ending each stream at every offset. A codec that may deliver the rest at the end
    /// needs [`final_frame`](super::Laws::final_frame). If a decoder takes a part of a frame out of
    /// the buffer before the rest has arrived, the check cannot tell at the end whether something
    /// is missing.
    ///
    /// This codec takes half a command for a whole one when the connection breaks:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use std::io;
    /// # use tokio_util::codec::Decoder;
    /// struct Hasty;
    ///
    /// impl Decoder for Hasty {
    ///     type Item = BytesMut;
    ///     type Error = io::Error;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    ///         let Some(at) = src.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    ///         let line = src.split_to(at);
    ///         src.advance(1);
    ///         Ok(Some(line))
    ///     }
    ///
    ///     fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    ///         Ok(self.decode(src)?.or_else(|| (!src.is_empty()).then(|| src.split())))
    ///     }
    /// }
    ///
    /// let laws = || Laws::new(|| Hasty).streams(["DELETE /tmp/cache\n"]);
    /// assert_eq!(laws().try_check().unwrap_err().law, Law::PrefixSafety);
    /// laws().final_frame().check(); // if that is intended
    /// ```
    PrefixSafety,
    /// A decoder holds no more than the longest frame, and allocates nothing for a length that was
    /// only announced.
    ///
    /// Checked in two ways: at most [`limit`](super::Laws::limit) bytes may be unread when the
    /// decoder wants more, also on floods of one byte; and a call of `decode` must not make the
    /// buffer grow. Other allocations of a decoder are not seen: count them in a test with a
    /// counting allocator, such as that of the crate `stats_alloc`.
    ///
    /// This codec allocates as much as the peer announces:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use std::io;
    /// # use tokio_util::codec::Decoder;
    /// struct Trusting;
    ///
    /// impl Decoder for Trusting {
    ///     type Item = BytesMut;
    ///     type Error = io::Error;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    ///         let Some((length, rest)) = src.split_first_chunk() else { return Ok(None) };
    ///         let length = usize::from(u16::from_be_bytes(*length));
    ///         if rest.len() < length {
    ///             src.reserve(length - rest.len());
    ///             return Ok(None);
    ///         }
    ///         src.advance(2);
    ///         Ok(Some(src.split_to(length)))
    ///     }
    /// }
    ///
    /// let violation = Laws::new(|| Trusting).streams([b"\xff\xff"]).try_check().unwrap_err();
    /// assert_eq!(violation.law, Law::BoundedMemory);
    /// ```
    BoundedMemory,
    /// Each byte is examined a bounded number of times, however the bytes were cut into reads.
    ///
    /// Checked without a clock, by a consequence: a decoder that does not examine bytes again
    /// cannot notice that they have changed. Whenever it wants more, the unread bytes are
    /// overwritten with bytes that would end a frame, except a [window](super::Laws::window) at
    /// their start, for a prefix that is read again, and one at their end, where a delimiter may
    /// have begun. Frames still have to end at the same offsets; their content is not compared.
    /// Also, a decoder must not return frames or errors without end.
    ///
    /// The check does not show a second search whose result is ignored; bytes copied or moved again
    /// and again; work on bytes that a decoder has put aside; and anything about frames shorter
    /// than two windows, so give some that are longer
    /// ([`Report::overwritten`](super::Report::overwritten) says how much was checked). It fails
    /// wrongly for a decoder in which content outside the window decides where a later frame ends:
    /// make the window wide enough for that content.
    ///
    /// This codec searches all unread bytes again after each read:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use std::io;
    /// # use tokio_util::codec::Decoder;
    /// struct Rescanning;
    ///
    /// impl Decoder for Rescanning {
    ///     type Item = BytesMut;
    ///     type Error = io::Error;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    ///         let Some(at) = src.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    ///         let line = src.split_to(at);
    ///         src.advance(1);
    ///         Ok(Some(line))
    ///     }
    /// }
    ///
    /// let laws = Laws::new(|| Rescanning).streams(["a line of more than thirty-two bytes, piece by piece\n"]);
    /// assert_eq!(laws.try_check().unwrap_err().law, Law::LinearWork);
    /// ```
    LinearWork,
    /// An error is the same, at the same offset, in every segmentation; after a fatal one nothing
    /// is delivered, after a recoverable one the next frames are.
    ///
    /// Checked with law 1. Also, an error has to lie within the bytes that have arrived, a decoder
    /// has to discard all input after a fatal error, and after a recoverable one the first of the
    /// given [frames](super::Laws::frames) has to be delivered if it is sent twice: the first may
    /// be lost with the rest of a bad frame. Whether an error is fatal is known for
    /// [`CodecError`](ropewalk_codecs::CodecError); for other errors use
    /// [`Laws::errors`](super::Laws::errors).
    ///
    /// This codec reports where it was when it found the error, which depends on the reads:
    ///
    /// ```
    /// # use bytes::{Bytes, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use ropewalk_codecs::{CodecError, ErrorKind};
    /// # use tokio_util::codec::Decoder;
    /// #[derive(Default)]
    /// struct Misplaced {
    ///     taken: usize,
    ///     over: bool,
    /// }
    ///
    /// impl Decoder for Misplaced {
    ///     type Item = Bytes;
    ///     type Error = CodecError;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
    ///         let bytes = src.split().freeze();
    ///         self.taken += bytes.len();
    ///         if self.over || bytes.is_ascii() {
    ///             return Ok(None); // a codec that only looks whether all is ASCII
    ///         }
    ///         self.over = true;
    ///         Err(CodecError::new(ErrorKind::InvalidUtf8).at(self.taken as u64))
    ///     }
    /// }
    ///
    /// let violation = Laws::new(Misplaced::default).streams([b"ab\xffcd"]).try_check().unwrap_err();
    /// assert_eq!(violation.law, Law::PlacedErrors);
    /// ```
    PlacedErrors,
    /// When encoding fails, the buffer is unchanged.
    ///
    /// Checked on the given [frames](super::Laws::frames), in a buffer that is not empty: so give
    /// some that encoding refuses. An accepted frame has to be appended to the content of the
    /// buffer.
    ///
    /// This codec writes the length before it knows that the frame may follow:
    ///
    /// ```
    /// # use bytes::{BufMut, Bytes, BytesMut};
    /// # use ropewalk_laws::{Law, Laws};
    /// # use ropewalk_codecs::{CodecError, ErrorKind, LengthPrefixed};
    /// # use tokio_util::codec::{Decoder, Encoder};
    /// struct HalfWritten(LengthPrefixed);
    ///
    /// impl Decoder for HalfWritten {
    ///     type Item = Bytes;
    ///     type Error = CodecError;
    ///
    ///     fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
    ///         self.0.decode(src)
    ///     }
    /// }
    ///
    /// impl Encoder<Bytes> for HalfWritten {
    ///     type Error = CodecError;
    ///
    ///     fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
    ///         dst.put_u16(frame.len() as u16);
    ///         if frame.len() > 100 {
    ///             return Err(CodecError::new(ErrorKind::TooLong { max: 100 }));
    ///         }
    ///         dst.extend_from_slice(&frame);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let laws = Laws::new(|| HalfWritten(LengthPrefixed::u16().max(100))).frames([Bytes::from(vec![0; 101])]);
    /// assert_eq!(laws.try_check().unwrap_err().law, Law::NoHalfFrames);
    /// ```
    NoHalfFrames,
}

impl Law {
    /// Its number, from 1 to 7.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::AnySegmentation => 1,
            Self::RoundTrip => 2,
            Self::PrefixSafety => 3,
            Self::BoundedMemory => 4,
            Self::LinearWork => 5,
            Self::PlacedErrors => 6,
            Self::NoHalfFrames => 7,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::AnySegmentation => "any segmentation",
            Self::RoundTrip => "round trip",
            Self::PrefixSafety => "prefix safety",
            Self::BoundedMemory => "bounded memory",
            Self::LinearWork => "linear work",
            Self::PlacedErrors => "placed errors",
            Self::NoHalfFrames => "no half frames",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {}, {},", self.number(), self.title())
    }
}
