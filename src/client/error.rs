//! The errors of calls.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use ropewalk_middleware::{BoxError, Error};

/// The cause of a failed call, shared by all calls that failed because of it.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// The error of a call. It is cheap to clone, because one broken connection fails many calls.
///
/// [`is_not_sent`](Self::is_not_sent) tells whether the server may have seen the request. The error
/// of a broken connection is the [`source`](StdError::source).
///
/// ```
/// use ropewalk::client::ClientError;
///
/// let late = ClientError::TimedOut { sent: false };
/// assert!(late.is_not_sent());
/// assert_eq!(late.to_string(), "no answer in time; the request was not sent");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection ended, and no byte of the request had been passed to the transport.
    NotSent(Cause),
    /// The connection ended, and the server may have seen the request.
    MayHaveArrived(Cause),
    /// No answer arrived within [`call_within`](super::Client::call_within).
    TimedOut {
        /// Whether the server may have seen the request.
        sent: bool,
    },
    /// The codec refused the request, and no part of it was sent.
    Codec(Cause),
    /// The server sent a frame that answers no call, so later answers can't be trusted. The request
    /// may have arrived.
    Desynchronized,
    /// The client drains, or has ended. The request was not sent.
    Draining,
    /// There is no connection, and none is expected in time: see
    /// [`fail_fast_after`](super::Client::fail_fast_after) and [`fatal`]. The request was not sent.
    Unavailable(Cause),
    /// `call` was called before `poll_ready` was ready. The request was not sent.
    NotReady,
}

impl ClientError {
    /// Whether the server can't have seen the request, so that any request can safely be sent
    /// again.
    pub fn is_not_sent(&self) -> bool {
        match self {
            Self::NotSent(_)
            | Self::Codec(_)
            | Self::Draining
            | Self::Unavailable(_)
            | Self::NotReady => true,
            Self::TimedOut { sent } => !sent,
            Self::MayHaveArrived(_) | Self::Desynchronized => false,
        }
    }

    fn cause(&self) -> Option<&Cause> {
        match self {
            Self::NotSent(cause)
            | Self::MayHaveArrived(cause)
            | Self::Codec(cause)
            | Self::Unavailable(cause) => Some(cause),
            Self::TimedOut { .. } | Self::Desynchronized | Self::Draining | Self::NotReady => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent(_) => "the connection ended before any byte of the request was sent",
            Self::MayHaveArrived(_) => "the connection ended, and the request may have arrived",
            Self::TimedOut { sent: true } => "no answer in time; the request may have arrived",
            Self::TimedOut { sent: false } => "no answer in time; the request was not sent",
            Self::Codec(_) => "the codec refused the request",
            Self::Desynchronized => "the server sent a frame that answers no request",
            Self::Draining => "the client drains",
            Self::Unavailable(_) => "there is no connection",
            Self::NotReady => "`call` was called before `poll_ready` was ready",
        })
    }
}

impl StdError for ClientError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause().map(|cause| &**cause as _)
    }
}

pub(super) fn cause(error: Error) -> Cause {
    Arc::from(error.into_inner())
}

/// Marks an error of [`prepare`](super::Client::prepare) after which further attempts are
/// pointless: a wrong password, an unsupported version of the protocol. The client ends, and all
/// its calls fail with this error.
///
/// ```
/// use ropewalk::{Error, Lines, Result, Session, client};
///
/// async fn log_in(mut s: Session<Lines>) -> Result<Session<Lines>> {
///     s.feed("AUTH secret")?;
///     match s.next().await? {
///         Some(line) if line == "OK" => Ok(s),
///         Some(_) => Err(client::fatal(Error::other("the password is wrong"))),
///         None => Err(Error::other("the server has closed the connection")),
///     }
/// }
/// ```
pub fn fatal(error: impl Into<BoxError>) -> Error {
    Fatal(error.into()).into()
}

/// An error after which the client does not try again.
#[derive(Debug)]
pub(super) struct Fatal(BoxError);

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Fatal {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
