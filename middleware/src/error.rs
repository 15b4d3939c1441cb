//! The one error type of servers and clients, which takes every error of a session or a service.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use ropewalk_codecs::{CodecError, ErrorKind};

use crate::CloseReason;

pub use ropewalk_codecs::BoxError;

/// The result of sessions, services and servers.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// An error of any kind: `?` converts every `std::error::Error` to it.
///
/// Like `anyhow::Error` it is not a `std::error::Error` itself (otherwise `From` could not accept
/// all of them), and its size is one pointer. [`Error::downcast_ref`] finds the error it was made
/// from. [`Error::other`] makes one from a text or a [`BoxError`]: `return Err(Error::other("no
/// such key"))`.
///
/// A boxed error (or one of anyhow) does not convert by `?` alone, because the `From` for every
/// error type rules out another one: write `.map_err(Error::other)?`. Outward, `?` converts to a
/// [`BoxError`] and, with the feature `anyhow`, to `anyhow::Error`. `{error}` prints the error,
/// `{error:?}` the error and its causes on one line.
///
/// ```
/// fn port(text: &str) -> ropewalk_middleware::Result<u16> {
///     Ok(text.parse()?)
/// }
/// assert!(port("8007x").unwrap_err().downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
pub struct Error(Box<ErrorParts>);

struct ErrorParts {
    error: BoxError,
    /// The reason under which a connection that it ends is counted, if the error's type doesn't
    /// determine it.
    reason: Option<CloseReason>,
}

impl Error {
    /// Makes an error from a boxed one, or from a text.
    ///
    /// ```
    /// let error = ropewalk_middleware::Error::other("the stove is cold");
    /// assert_eq!(error.to_string(), "the stove is cold");
    /// ```
    pub fn other(error: impl Into<BoxError>) -> Self {
        // An `Error` that went through a tower layer as a box is restored.
        match error.into().downcast::<Opaque>() {
            Ok(opaque) => opaque.0,
            Err(error) => Self(Box::new(ErrorParts { error, reason: None })),
        }
    }

    /// Makes an error of the codec, from any type.
    #[doc(hidden)]
    pub fn codec(error: impl Into<BoxError>) -> Self {
        let mut error = Self::other(error);
        error.0.reason = error.close_reason().or(Some(CloseReason::CodecError));
        error
    }

    /// The error this was made of, if it is a `T`.
    pub fn downcast_ref<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.error.downcast_ref()
    }

    /// The error this was made of, boxed.
    pub fn into_inner(self) -> BoxError {
        self.0.error
    }

    /// Whether the frames after this one can still be read, for example after a too-long line that
    /// was skipped, or a frame that is not a valid command. Only a [`CodecError`] can be
    /// recoverable; any other error is taken as fatal.
    pub fn is_recoverable(&self) -> bool {
        self.downcast_ref::<CodecError>().is_some_and(|e| !e.is_fatal())
    }

    /// Whether the peer missed a read deadline: one of the three of a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer), or the leaf's for a frame that has begun. A
    /// last answer can still be sent.
    pub fn is_read_timeout(&self) -> bool {
        self.downcast_ref::<SessionError>().is_some_and(|error| error.is_read_timeout())
    }

    /// Whether a frame was over its limit.
    #[doc(hidden)]
    pub fn is_too_long(&self) -> bool {
        self.downcast_ref::<CodecError>()
            .is_some_and(|e| matches!(e.kind(), ErrorKind::TooLong { .. }))
    }

    /// The close reason of this error, if it has one.
    #[doc(hidden)]
    pub fn close_reason(&self) -> Option<CloseReason> {
        if self.0.reason.is_some() {
            return self.0.reason;
        }
        if let Some(session) = self.downcast_ref::<SessionError>() {
            return match session {
                SessionError::WriteStalled | SessionError::HandshakeTimedOut => {
                    Some(CloseReason::Timeout)
                }
                SessionError::WriteLimit { .. } => Some(CloseReason::WriteLimit),
                SessionError::Aborted => Some(CloseReason::Aborted),
                SessionError::Truncated { .. } | SessionError::PlaintextBehind { .. } => {
                    Some(CloseReason::CodecError)
                }
                SessionError::FirstFrameTimeout => Some(CloseReason::FirstFrameTimeout),
                SessionError::FrameTimeout => Some(CloseReason::FrameTimeout),
                SessionError::IdleTimeout => Some(CloseReason::IdleTimeout),
                SessionError::InputLimit { .. } => Some(CloseReason::InputLimit),
                SessionError::CodecStalled => Some(CloseReason::CodecStalled),
                _ => None,
            };
        }
        self.downcast_ref::<CodecError>().map(|_| CloseReason::CodecError)
    }

    /// An error of the connection itself: the peer, or the network path to it, is gone.
    #[doc(hidden)]
    pub fn wire(error: io::Error) -> Self {
        Self(Box::new(ErrorParts { error: Box::new(error), reason: Some(CloseReason::PeerReset) }))
    }

    /// An error of a service. A reason implied by its type is ignored, because the error may come
    /// from another connection.
    #[doc(hidden)]
    pub fn service(error: impl Into<BoxError>) -> Self {
        let mut error = Self::other(error);
        error.0.reason = error.0.reason.or(Some(CloseReason::ServiceError));
        error
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(ErrorParts { error: Box::new(error), reason: None }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl fmt::Debug for Error {
    /// The error and its sources on one line. `main` prints this when it returns an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.error)?;
        let mut source = self.0.error.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl From<Error> for BoxError {
    fn from(error: Error) -> Self {
        Box::new(Opaque(error))
    }
}

/// `downcast_ref::<BoxError>` finds the error it was made from.
#[cfg(feature = "anyhow")]
impl From<Error> for anyhow::Error {
    fn from(error: Error) -> Self {
        Self::from_boxed(error.into_inner())
    }
}

/// An [`Error`] on its way through layers that require a `std::error::Error`.
struct Opaque(Error);

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Opaque {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.0.error.source()
    }
}

/// The errors that a `Session` itself raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// `raw`, `switch` or `codec_mut` was called after a part of a frame had been read; they are
    /// legal only between two frames. Don't drop `next()` before it has finished, or call these
    /// first.
    MidFrame,
    /// More raw bytes were requested than the limit allows; no bytes were read. `raw_chunks` has no
    /// such limit.
    RawTooLong {
        /// The limit in bytes.
        max: u64,
    },
    /// The peer closed inside raw bytes.
    Truncated {
        /// How many bytes were missing.
        missing: u64,
    },
    /// `feed` was called while as many bytes were unwritten as the write limit allows.
    /// `send().await` waits instead.
    WriteLimit {
        /// The limit in bytes.
        max: usize,
    },
    /// The peer accepted no data for the duration of the write stall, or less than 64 KiB in four
    /// times that duration.
    WriteStalled,
    /// The connection was aborted: the server was stopped, or its drain reached the deadline.
    Aborted,
    /// `upgrade_tls` was called when plaintext after the request had already been read. The session
    /// is over.
    PlaintextBehind {
        /// How many bytes of it were read.
        bytes: usize,
    },
    /// `upgrade_tls` was called on a connection that has TLS already. The session continues.
    AlreadyEncrypted,
    /// The handshake of `upgrade_tls` was not completed in time.
    HandshakeTimedOut,
    /// The peer did not complete its first frame in the time that a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) allows.
    FirstFrameTimeout,
    /// The peer did not finish a frame (or raw bytes) that it had begun in the time that the layer,
    /// or without a layer the leaf, allows.
    FrameTimeout,
    /// The peer was idle for longer than the layer allows.
    IdleTimeout,
    /// The codec found no frame in as many bytes as the input limit allows, and has no limit of its
    /// own.
    InputLimit {
        /// The limit in bytes.
        max: usize,
    },
    /// The codec yielded a thousand frames (or recoverable errors) in a row without taking a byte
    /// from its buffer, more than the bytes it had taken before can account for.
    CodecStalled,
}

impl SessionError {
    /// Whether the peer missed a read deadline.
    #[doc(hidden)]
    pub fn is_read_timeout(self) -> bool {
        matches!(self, Self::FirstFrameTimeout | Self::FrameTimeout | Self::IdleTimeout)
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MidFrame => {
                f.write_str("in the middle of a frame: raw, switch and codec_mut are legal between two frames only")
            }
            Self::RawTooLong { max } => {
                write!(
                    f,
                    "more than the {max} raw bytes allowed at once: take them with raw_chunks, or raise raw_limit"
                )
            }
            Self::Truncated { missing } => write!(f, "the peer closed before the last {missing} raw bytes"),
            Self::WriteLimit { max } => {
                write!(
                    f,
                    "{max} bytes of answers wait to be written, and feed does not wait for the peer: use send, or flush first"
                )
            }
            Self::WriteStalled => {
                f.write_str("the peer accepted no answers, or too few bytes of them, in the time of the write stall")
            }
            Self::Aborted => f.write_str("the server aborted the connection"),
            Self::PlaintextBehind { bytes } => {
                write!(f, "{bytes} bytes of plaintext arrived after the request to start TLS, and may have been injected")
            }
            Self::AlreadyEncrypted => f.write_str("the connection is encrypted already"),
            Self::HandshakeTimedOut => f.write_str("the TLS handshake took too long"),
            Self::FirstFrameTimeout => f.write_str("the peer sent no complete first frame in time"),
            Self::FrameTimeout => f.write_str("the peer did not finish its frame in time"),
            Self::IdleTimeout => f.write_str("the peer was idle for too long"),
            Self::InputLimit { max } => write!(
                f,
                "the codec left more than {max} bytes without finding a frame in them: give it a limit of its own (as \
                 LinesCodec::new_with_max_length), or raise input_limit"
            ),
            Self::CodecStalled => f.write_str(
                "the codec yields frames without consuming bytes: a decoder removes the bytes of each frame from its buffer \
                 (split_to, advance), or returns None",
            ),
        }
    }
}

impl StdError for SessionError {}
