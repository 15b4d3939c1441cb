//! Errors of codecs, with their place in the stream.

use std::error::Error;
use std::fmt;
use std::io;

/// Any error, boxed: the error of a user's conversion.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The error of every codec of this crate.
///
/// It says what is wrong ([`kind`](Self::kind)), at which byte of the stream
/// ([`offset`](Self::offset)), and whether decoding can go on ([`is_fatal`](Self::is_fatal)). All
/// three are the same however the bytes were cut into reads.
///
/// A *fatal* error means that the framing is lost: the decoder that returned it yields nothing more
/// and discards all further input. After a *recoverable* one the next call continues with the next
/// frame.
///
/// A codec of your own can use it too:
///
/// ```
/// use ropewalk_codecs::{CodecError, ErrorKind};
///
/// let error = CodecError::new(ErrorKind::BadLength).at(12);
/// assert!(error.is_fatal());
/// assert_eq!(error.offset(), Some(12));
///
/// let error = CodecError::parse("no such command").at(40);
/// assert!(!error.is_fatal());
/// ```
#[derive(Debug)]
pub struct CodecError(Box<Inner>);

/// Boxed, because the result of each `decode` has room for an error and is moved.
#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    offset: Option<u64>,
    fatal: bool,
}

/// Why bytes could not be decoded, or a frame not encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The frame is, or is announced to be, longer than the limit. When encoding: longer than the
    /// limit, or than the length prefix can express.
    TooLong {
        /// The limit in bytes, without delimiter and prefix; for [`Strict`](crate::custom::Strict)
        /// it includes them.
        max: usize,
    },
    /// The length is not well-formed, not in minimal form, or negative once adjusted. When
    /// encoding: no such length can be announced, or the frame has another size than the codec's
    /// frames have.
    BadLength,
    /// The byte after the frame is not the terminator that must stand there.
    MissingTerminator,
    /// The frame to encode would be decoded to something else, because it contains the delimiter,
    /// or because its end and the delimiter together contain it too early.
    DelimiterInFrame,
    /// The stream ended inside a frame.
    Truncated {
        /// How many bytes of the unfinished frame have arrived, including its prefix.
        have: u64,
    },
    /// The frame is not UTF-8.
    InvalidUtf8,
    /// The frame is complete, but its conversion to the type that the application expects has
    /// failed.
    Parse(BoxError),
    /// The transport failed.
    Io(io::Error),
    /// An error of a codec of another crate.
    Other(BoxError),
}

impl CodecError {
    /// A fatal error of this kind, without an offset.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        Self(Box::new(Inner { kind, offset: None, fatal: true }))
    }

    /// A recoverable [`ErrorKind::Parse`]: the frame is complete, and its content is wrong.
    pub fn parse(error: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::Parse(error.into())).recoverable()
    }

    /// The error of any codec as a `CodecError`: a `CodecError` stays as it is, an [`io::Error`]
    /// becomes [`ErrorKind::Io`], any other error becomes a fatal [`ErrorKind::Other`].
    pub fn from_any(error: impl Into<BoxError>) -> Self {
        error.into().downcast::<Self>().map_or_else(
            |error| match error.downcast::<io::Error>() {
                Ok(error) => Self::from(*error),
                Err(error) => Self::new(ErrorKind::Other(error)),
            },
            |error| *error,
        )
    }

    /// The same error, placed at a stream offset.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// The same error, after which decoding goes on with the next frame.
    ///
    /// A decoder that makes [`ErrorKind::TooLong`] recoverable and drops the rest of that frame as
    /// it arrives must leave a byte of it in the buffer until the frame has ended, as
    /// [`Lines`](crate::Lines) does: an empty buffer means that the next byte begins a frame.
    #[must_use]
    pub fn recoverable(mut self) -> Self {
        self.0.fatal = false;
        self
    }

    /// The same error, after which nothing is decoded.
    pub(crate) fn fatal(mut self) -> Self {
        self.0.fatal = true;
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What is wrong, by value: for the error inside [`ErrorKind::Parse`], [`ErrorKind::Io`] or
    /// [`ErrorKind::Other`].
    #[must_use]
    pub fn into_kind(self) -> ErrorKind {
        self.0.kind
    }

    /// The stream offset, counted from the first byte this decoder saw. It is the offset of the
    /// first invalid byte; for a length that is refused as a whole, of its first byte; for
    /// [`ErrorKind::Parse`], and [`ErrorKind::TooLong`] of [`Strict`](crate::custom::Strict), of
    /// the frame's first byte; for [`ErrorKind::Truncated`], of the end of the stream.
    ///
    /// `None` for errors of encoding, of the transport and of foreign codecs.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Whether the framing is lost, so that nothing more can be decoded from this stream.
    ///
    /// It has no meaning for an error of encoding: nothing was written then, and encoding may
    /// continue with the next frame.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.kind.fmt(f)?;
        match self.0.offset {
            Some(offset) => write!(f, ", at byte {offset} of the stream"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { max } => write!(f, "the frame is longer than the limit of {max} bytes"),
            Self::BadLength => f.write_str("no frame can have this length"),
            Self::MissingTerminator => f.write_str("the terminator is missing after the frame"),
            Self::DelimiterInFrame => f.write_str(
                "the frame contains the delimiter: escape it or split the frame before sending it",
            ),
            Self::Truncated { have } => write!(f, "the stream ended {have} bytes into a frame"),
            Self::InvalidUtf8 => f.write_str("the frame is not valid UTF-8"),
            Self::Io(error) => error.fmt(f),
            // The conversion's own text, because a protocol may send it to the peer.
            Self::Parse(error) | Self::Other(error) => error.fmt(f),
        }
    }
}

impl Error for CodecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.kind {
            // These three print the error they hold, so their source is the source of that error.
            ErrorKind::Io(error) => error.source(),
            ErrorKind::Other(error) | ErrorKind::Parse(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        Self::new(ErrorKind::Io(error))
    }
}
