//! The text of an endpoint or remote, split into its parts.

use std::fmt;

use ropewalk_middleware::percent;

use super::EndpointError;

/// The prefix of the scheme.
pub(super) const PREFIX: &str = "proxy+";

/// The prefix of the scheme that encrypts any socket but TCP, for which the scheme is `tls:`.
const ENCRYPTED: &str = "tls+";

const FORMS: &str = "write tcp:PORT, tcp:ADDRESS:PORT or unix:PATH";

/// The text as a whole, so that every error can quote it.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) text: &'a str,
}

impl Input<'_> {
    pub(super) fn error(self, problem: impl Into<String>, fix: impl Into<String>) -> EndpointError {
        let mut fix: String = fix.into();
        let own = self.text.split_once(':').map_or("", |(scheme, _)| scheme);
        let transport = own.strip_prefix(PREFIX).unwrap_or(own);
        // All schemes of one kind of socket have the same addresses, paths or names.
        let plain = match transport.strip_prefix(ENCRYPTED) {
            Some(transport) => transport,
            None if transport == "tls" => "tcp",
            None => transport,
        };
        if own != plain {
            fix = fix.replace(&format!("write {plain}:"), &format!("write {own}:"));
            fix = fix.replace(&format!("or {plain}:"), &format!("or {own}:"));
        }
        EndpointError::new(self.text, problem, fix)
    }

    pub(super) fn not_a_url(self, instead: impl fmt::Display) -> EndpointError {
        self.error(
            "an endpoint is not a URL, and \"//\" is not part of it",
            format!("write {instead}"),
        )
    }

    /// Decodes `%` with two hexadecimal digits.
    pub(super) fn decode(self, text: &str) -> Result<Vec<u8>, EndpointError> {
        percent::decode(text).map_err(|part| {
            self.error(
                format!("\"{part}\" is not % and two hexadecimal digits"),
                "write %25 for a %",
            )
        })
    }
}

/// The text of an encrypted endpoint: TCP has a scheme of its own, any other socket a prefix.
#[cfg(feature = "rustls")]
pub(super) fn encrypted(plain: &str) -> String {
    match plain.strip_prefix("tcp:") {
        Some(address) => format!("tls:{address}"),
        None => format!("{ENCRYPTED}{plain}"),
    }
}

/// The parts of a text, not checked yet.
pub(super) struct Parts<'a> {
    pub(super) scheme: &'a str,
    /// The scheme of its socket.
    pub(super) transport: &'a str,
    pub(super) encrypted: bool,
    pub(super) address: &'a str,
    pub(super) options: Vec<&'a str>,
}

impl<'a> Input<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// Splits the text into its parts.
    pub(super) fn parts(self) -> Result<Parts<'a>, EndpointError> {
        let text = self.text;
        if text.is_empty() {
            return Err(self.error("it is empty", FORMS));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(no_scheme(self));
        };
        let (address, options) = match rest.split_once('?') {
            Some((address, options)) => (address, options.split('&').collect()),
            None => (rest, Vec::new()),
        };
        let behind = scheme.strip_prefix(PREFIX).unwrap_or(scheme);
        let (encrypted, transport) = match behind.strip_prefix(ENCRYPTED) {
            Some("tcp" | "tls") => {
                return Err(
                    self.error(format!("the scheme {behind:?} is unknown"), "TCP with TLS is tls:")
                );
            }
            Some(transport) => (true, transport),
            None => (behind == "tls", behind),
        };
        Ok(Parts { scheme, transport, encrypted, address, options })
    }
}

fn no_scheme(input: Input<'_>) -> EndpointError {
    let text = input.text;
    let fix = if text.bytes().all(|b| b.is_ascii_digit()) {
        format!("write tcp:{text}")
    } else if text.contains('/') {
        format!("write unix:{text}")
    } else {
        FORMS.to_owned()
    };
    input.error("the scheme is missing", fix)
}
