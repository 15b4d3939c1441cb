//! The errors of an endpoint: in its text, or when it is bound.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use super::Endpoint;

/// A string that is not a valid endpoint. Its message quotes the string and the wrong part, and
/// explains what to write instead.
///
/// ```
/// use ropewalk::Endpoint;
///
/// let error = "tcp:localhost:99999".parse::<Endpoint>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "bad endpoint \"tcp:localhost:99999\": port 99999 is over 65535: write a port from 0 (any free one) to 65535",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    input: String,
    problem: String,
    fix: String,
}

impl EndpointError {
    pub(super) fn new(input: &str, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { input: input.to_owned(), problem: problem.into(), fix: fix.into() }
    }

    /// The string as it was given.
    pub fn input(&self) -> &str {
        &self.input
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad endpoint {:?}: {}: {}", self.input, self.problem, self.fix)
    }
}

impl StdError for EndpointError {}

/// Converting an [`Endpoint`] to itself can't fail; this lets a function accept strings and
/// endpoints.
impl From<Infallible> for EndpointError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// An endpoint that could not be bound. Its message contains the endpoint, the cause and advice.
#[derive(Debug)]
pub struct BindError {
    endpoint: String,
    cause: io::Error,
    advice: Cow<'static, str>,
}

impl BindError {
    pub(super) fn new(endpoint: &Endpoint, cause: io::Error) -> Self {
        // Only the system's errors need advice: errors of this crate (those without a number)
        // contain it.
        let advice = cause.raw_os_error().map_or("", |errno| endpoint.kind.scheme().advice(errno));
        Self { endpoint: endpoint.to_string(), cause, advice: advice.into() }
    }

    /// Adds advice about the endpoints that the same server has bound before this one, if one of
    /// them is in conflict with it.
    pub(crate) fn behind(mut self, endpoint: &Endpoint, others: &[Endpoint]) -> Self {
        if self.cause.raw_os_error() == Some(libc::EADDRINUSE)
            && let Some((other, why)) =
                others.iter().find_map(|other| Some((other, endpoint.conflict(other)?)))
        {
            self.advice = format!("; {other}, where this server listens as well, {why}").into();
        }
        self
    }

    /// The endpoint, as its `Display` writes it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The system's error.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot bind {}: {}{}", self.endpoint, self.cause, self.advice)
    }
}

impl StdError for BindError {
    /// The cause is part of the message already, so this is the cause's own source.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// A remote that could not be connected to. Its message names the remote and the cause.
#[derive(Debug)]
pub struct ConnectError {
    remote: String,
    cause: io::Error,
}

impl ConnectError {
    pub(crate) fn new(remote: String, cause: io::Error) -> Self {
        Self { remote, cause }
    }

    /// The remote, as its `Display` writes it.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// The error of the system or of the TLS handshake.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: {}", self.remote, self.cause)
    }
}

impl StdError for ConnectError {
    /// The cause is part of the message already, so this is the cause's own source.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{BindError, Endpoint};

    #[test]
    fn a_privileged_port_gets_the_advice_for_ports_and_a_path_the_one_for_paths() {
        let denied = || io::Error::from_raw_os_error(libc::EACCES);
        let port =
            BindError::new(&Endpoint::tcp(([127, 0, 0, 1], 80).into()), denied()).to_string();
        assert!(
            port.starts_with("cannot bind tcp:127.0.0.1:80: Permission denied")
                && port.contains("below 1024")
        );
        let path = BindError::new(&Endpoint::unix("/run/x"), denied()).to_string();
        assert!(path.contains("directory") && !path.contains("1024"), "{path}");
    }
}
