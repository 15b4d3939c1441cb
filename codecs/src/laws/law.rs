//! The seven laws.

use std::fmt;

/// A law of codecs: what it says, how the kit checks it, what that does not show, and a wrong codec it catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// The frames and the errors do not depend on how the bytes were cut into reads.
    ///
    /// Checked by comparing each stream in one read with the same stream cut in two at every byte, in three, in reads
    /// of 1 to 9 bytes, and at random; before every second read the unread bytes move to another buffer. Beyond 200
    /// bytes the places of single cuts are random too.
    ///
    /// This codec searches only what is new, and misses a CR LF that comes in two reads:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
    /// What was encoded is decoded to the same frames, and nothing is encoded that would not be.
    ///
    /// Checked on the [frames](super::Laws::frames) given: those that encoding refuses are left out, all others have to
    /// come back, in order, and nothing else.
    ///
    /// This codec sends whatever it is given, also a second line within the first:
    ///
    /// ```
    /// # use bytes::{Bytes, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
    /// A frame is delivered only when it is whole, and at the end of the stream a partial one is an error.
    ///
    /// Checked by ending each stream at every offset. What may be delivered at the end is said with
    /// [`final_frame`](super::Laws::final_frame). Of a decoder that takes part of a frame out of the buffer before the
    /// rest has come, the kit cannot tell at the end whether something is missing.
    ///
    /// This codec takes half a command for a whole one when the connection breaks:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
    /// laws().final_frame().check(); // if that is what it is for
    /// ```
    PrefixSafety,
    /// No more is held than the longest frame, and nothing is allocated for a length that was only announced.
    ///
    /// Checked by the bytes left unread when the decoder wants more, of which there may be at most
    /// [`limit`](super::Laws::limit), also on floods of one byte; and in that a call of `decode` must not make the
    /// buffer grow. What a decoder allocates elsewhere the kit does not see: for that, count in a test that installs an
    /// allocator which does, as the crate `stats_alloc` has one.
    ///
    /// This codec makes room for whatever the peer says will come:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
    /// Checked without a clock, by a consequence: a decoder that does not look again cannot notice that what it has
    /// seen is another now. Whenever it wants more, the unread bytes are overwritten with what would end a frame, save
    /// a [window](super::Laws::window) at their start, for a prefix that is read again, and one at their end, where a
    /// delimiter may have begun. Frames still have to end where they did; what is in them is not compared. Also, a
    /// decoder must not give frames or errors without end.
    ///
    /// What that does not show: searching again and ignoring what is found; copying or moving bytes again and again;
    /// work on bytes a decoder has put aside; and anything about frames shorter than two windows, so give some that are
    /// longer ([`Report::overwritten`](super::Report::overwritten) says how much was checked). It does show a wrong
    /// result for a decoder in which content decides where a later frame ends, if that content lies outside the window:
    /// make the window as wide.
    ///
    /// This codec searches all that has come each time something comes:
    ///
    /// ```
    /// # use bytes::{Buf, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
    /// The same error at the same offset in every segmentation; after a fatal one nothing, after a recoverable one the
    /// next frames.
    ///
    /// Checked with law 1, and in that an error lies within what has come, that a decoder after a fatal error discards
    /// what it is given, and that after a recoverable one the first of the [frames](super::Laws::frames) given is
    /// delivered, if it is sent twice: the first may be lost with the rest of a bad frame. What is fatal is known of
    /// [`CodecError`](crate::CodecError); of other errors say it with [`Laws::errors`](super::Laws::errors).
    ///
    /// This codec says where it was when it noticed, which depends on the reads:
    ///
    /// ```
    /// # use bytes::{Bytes, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
    /// When encoding fails, the buffer is as it was.
    ///
    /// Checked on the [frames](super::Laws::frames) given, in a buffer that is not empty: so give some that encoding
    /// refuses. A frame that is taken has to stand behind what was there.
    ///
    /// This codec writes the length before it knows that the frame may follow:
    ///
    /// ```
    /// # use bytes::{BufMut, Bytes, BytesMut};
    /// # use ropewalk_codecs::laws::{Law, Laws};
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
