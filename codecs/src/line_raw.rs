//! Lines, and raw sections between them.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::error::CodecError;
use crate::frame::{CHUNK, Progress, Span};
use crate::lines::Lines;
use crate::own_limit;

/// What [`LineRaw`] delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineOrRaw {
    /// A line, without its delimiter.
    Line(Bytes),
    /// The next bytes of a raw section as they arrived, 1 to 65 536 of them; or the whole section,
    /// after [`raw_whole`](LineRaw::raw_whole).
    Raw(Bytes),
}

/// Lines, and raw sections between them: the shape of memcached's `set`, SMTP's `BDAT`, HTTP's
/// body.
///
/// It decodes [`Lines`] until it is switched. [`raw(n)`](Self::raw) makes the next `n` bytes a raw
/// section, followed by lines again; [`raw_until_lines`](Self::raw_until_lines) makes everything
/// raw until [`lines`](Self::lines). A switch takes effect at the byte after the last line
/// delivered, even if the bytes that follow have been received already.
/// [`raw_whole(n)`](Self::raw_whole) delivers a short section in one piece when all of it has
/// arrived. The owner of the codec may switch it between two calls of `decode`: the application
/// between two frames, or a codec of your own around this one, when a line announces how many raw
/// bytes follow:
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use ropewalk_codecs::{CodecError, LineOrRaw, LineRaw};
/// use tokio_util::codec::Decoder;
///
/// /// `len <n>` announces a section of n bytes.
/// struct Sections(LineRaw);
///
/// impl Decoder for Sections {
///     type Item = LineOrRaw;
///     type Error = CodecError;
///
///     fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
///         let item = self.0.decode(src)?;
///         if let Some(LineOrRaw::Line(line)) = &item
///             && let Some(n) = line.strip_prefix(b"len ")
///         {
///             let n = std::str::from_utf8(n).map_err(CodecError::parse)?;
///             self.0.raw(n.parse().map_err(CodecError::parse)?);
///         }
///         Ok(item)
///     }
/// }
///
/// # fn main() -> Result<(), CodecError> {
/// let mut codec = Sections(LineRaw::crlf());
/// let mut buffer = BytesMut::from("len 4\r\n\r\n\r\nquit\r\n");
/// assert_eq!(codec.decode(&mut buffer)?, Some(LineOrRaw::Line("len 4".into())));
/// assert_eq!(codec.decode(&mut buffer)?, Some(LineOrRaw::Raw("\r\n\r\n".into())));
/// assert_eq!(codec.decode(&mut buffer)?, Some(LineOrRaw::Line("quit".into())));
/// # Ok(())
/// # }
/// ```
///
/// How a section is cut into chunks depends on how it was received; its bytes, and the lines around
/// it, do not.
///
/// # Errors
///
/// Those of [`Lines`]. If the stream ends within `raw(n)`,
/// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) says how much of the section came. A
/// section without a length may end with the stream.
///
/// It encodes lines, from any `AsRef<[u8]>` or from [`LineOrRaw::Line`]; a [`LineOrRaw::Raw`] is
/// written as it is. The protocol has to tell the peer which bytes are raw.
#[derive(Debug, Clone)]
pub struct LineRaw {
    lines: Lines,
    mode: Mode,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Lines,
    /// `left` bytes remain of a section of `of` bytes; `left` is not 0.
    Raw {
        left: u64,
        of: u64,
    },
    /// A section of this many bytes, not 0, is delivered in one piece.
    Whole(usize),
    RawUntilLines,
}

impl LineRaw {
    /// These lines, with raw sections between them. Their limit and settings hold for the lines
    /// only.
    #[must_use]
    pub fn new(lines: Lines) -> Self {
        Self { lines, mode: Mode::Lines }
    }

    /// Lines that end with CR LF: [`Lines::crlf`].
    #[must_use]
    pub fn crlf() -> Self {
        Self::new(Lines::crlf())
    }

    /// Lines that end with LF: [`Lines::lf`].
    #[must_use]
    pub fn lf() -> Self {
        Self::new(Lines::lf())
    }

    /// The longest line allowed, in bytes without the delimiter. Default: 16 384.
    #[must_use]
    pub fn max(mut self, bytes: usize) -> Self {
        self.lines = self.lines.max(bytes);
        self
    }

    /// Makes the next `n` bytes a raw section, followed by lines. With 0, lines follow at once.
    pub fn raw(&mut self, n: u64) {
        self.switch(if n == 0 { Mode::Lines } else { Mode::Raw { left: n, of: n } });
    }

    /// Makes the next `n` bytes a raw section that is delivered in one piece, however it is cut
    /// into reads. With 0, lines follow at once.
    ///
    /// The read buffer grows to `n` bytes as they arrive, and no further: the caller has to limit
    /// `n`.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use ropewalk_codecs::{LineOrRaw, LineRaw};
    /// use tokio_util::codec::Decoder;
    ///
    /// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
    /// let mut codec = LineRaw::crlf();
    /// codec.raw_whole(5);
    /// let mut buffer = BytesMut::from("hel");
    /// assert_eq!(codec.decode(&mut buffer)?, None);
    /// buffer.extend_from_slice(b"lobye\r\n");
    /// assert_eq!(codec.decode(&mut buffer)?, Some(LineOrRaw::Raw("hello".into())));
    /// assert_eq!(codec.decode(&mut buffer)?, Some(LineOrRaw::Line("bye".into())));
    /// # Ok(())
    /// # }
    /// ```
    pub fn raw_whole(&mut self, n: usize) {
        self.switch(if n == 0 { Mode::Lines } else { Mode::Whole(n) });
    }

    /// Makes all following bytes raw, until [`lines`](Self::lines).
    ///
    /// Delivered bytes are not taken back: if lines continue after a certain byte, a raw chunk may
    /// contain bytes beyond it. If the length is known, use [`raw`](Self::raw), which is exact.
    pub fn raw_until_lines(&mut self) {
        self.switch(Mode::RawUntilLines);
    }

    /// Makes the following bytes lines again, even within a section that has not ended.
    pub fn lines(&mut self) {
        self.switch(Mode::Lines);
    }

    /// Whether the next byte belongs to a raw section.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        !matches!(self.mode, Mode::Lines)
    }

    fn switch(&mut self, mode: Mode) {
        self.mode = mode;
        self.lines.rewind();
    }

    fn progress(&mut self) -> &mut Progress {
        self.lines.progress()
    }

    /// Whether raw bytes come next: not after a fatal error, and not before a skipped line has
    /// ended. The codec was switched in response to that line's error, so the raw section begins
    /// after it.
    fn ready_for_raw(&mut self, src: &mut BytesMut) -> bool {
        !self.progress().is_over(src) && self.lines.skip_rest(src)
    }

    fn chunk(&mut self, src: &mut BytesMut, left: u64) -> Option<Bytes> {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(src.len()).min(CHUNK);
        (n > 0).then(|| self.progress().take(src, Span::bare(n)))
    }

    fn whole(&mut self, src: &mut BytesMut, n: usize) -> Option<LineOrRaw> {
        if !self.ready_for_raw(src) || src.len() < n {
            own_limit::note(src, n);
            return None;
        }
        self.mode = Mode::Lines;
        Some(LineOrRaw::Raw(self.progress().take(src, Span::bare(n))))
    }
}

impl Decoder for LineRaw {
    type Item = LineOrRaw;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let left = match self.mode {
            Mode::Lines => return Ok(self.lines.decode(src)?.map(LineOrRaw::Line)),
            Mode::Raw { left, .. } => left,
            Mode::Whole(n) => return Ok(self.whole(src, n)),
            Mode::RawUntilLines => u64::MAX,
        };
        if !self.ready_for_raw(src) {
            return Ok(None);
        }
        let chunk = self.chunk(src, left);
        if let (Mode::Raw { left, .. }, Some(chunk)) = (&mut self.mode, &chunk) {
            *left -= chunk.len() as u64;
            if *left == 0 {
                self.mode = Mode::Lines;
            }
        }
        Ok(chunk.map(LineOrRaw::Raw))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        if let Some(item) = self.decode(src)? {
            return Ok(Some(item));
        }
        if self.progress().is_over(src) {
            return Ok(None);
        }
        match self.mode {
            Mode::Lines => Ok(self.lines.decode_eof(src)?.map(LineOrRaw::Line)),
            Mode::RawUntilLines => {
                // All raw bytes have been delivered: the unread bytes can only belong to a skipped
                // line.
                let left = src.len();
                self.progress().skip(src, left);
                Ok(None)
            }
            Mode::Raw { left, of } => Err(self.progress().truncated(src, of - left)),
            Mode::Whole(_) => {
                // The rest of a skipped line is not part of the section.
                let have = if self.ready_for_raw(src) { src.len() as u64 } else { 0 };
                Err(self.progress().truncated(src, have))
            }
        }
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for LineRaw {
    type Error = CodecError;

    fn encode(&mut self, line: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.lines.encode(line, dst)
    }
}

impl Encoder<LineOrRaw> for LineRaw {
    type Error = CodecError;

    fn encode(&mut self, item: LineOrRaw, dst: &mut BytesMut) -> Result<(), CodecError> {
        match item {
            LineOrRaw::Line(line) => self.lines.encode(line, dst),
            LineOrRaw::Raw(bytes) => {
                dst.extend_from_slice(&bytes);
                Ok(())
            }
        }
    }
}
