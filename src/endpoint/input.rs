//! The text of an endpoint or remote, split into its parts.

use super::EndpointError;

/// The prefix of the scheme.
pub(super) const PREFIX: &str = "proxy+";

/// The prefix of the scheme that encrypts any socket but TCP, for which the scheme is `tls:`.
pub(super) const ENCRYPTED: &str = "tls+";

const FORMS: &str = "write tcp:PORT, tcp:ADDRESS:PORT or unix:PATH";

/// The text as a whole, so that every error can quote it.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) text: &'a str,
}

impl Input<'_> {
    pub(super) fn error(self, problem: impl Into<String>, fix: impl Into<String>) -> EndpointError {
        let (mut fix, own): (String, _) =
            (fix.into(), self.text.split_once(':').map_or("", |(scheme, _)| scheme));
        // All these schemes have the same addresses, paths or names.
        for plain in ["tcp", "unix", "systemd", "fd"] {
            let tls = if plain == "tcp" { "tls".to_owned() } else { format!("{ENCRYPTED}{plain}") };
            let transport = own.strip_prefix(PREFIX).unwrap_or(own);
            if own != plain && (transport == plain || transport == tls) {
                fix = fix.replace(&format!("write {plain}:"), &format!("write {own}:"));
                fix = fix.replace(&format!("or {plain}:"), &format!("or {own}:"));
            }
        }
        EndpointError::new(self.text, problem, fix)
    }
}

/// The parts of a text, not checked yet.
pub(super) struct Parts<'a> {
    pub(super) scheme: &'a str,
    /// The scheme of its socket.
    pub(super) transport: &'a str,
    pub(super) encrypted: bool,
    pub(super) place: &'a str,
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
        let (place, options) = match rest.split_once('?') {
            Some((place, options)) => (place, options.split('&').collect()),
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
        Ok(Parts { scheme, transport, encrypted, place, options })
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
    input.error("it does not say of which kind it is", fix)
}

/// Decodes `%` with two hexadecimal digits.
pub(super) fn decode(input: Input<'_>, place: &str) -> Result<Vec<u8>, EndpointError> {
    let mut parts = place.split('%');
    let mut path = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            let shown: String = part.chars().take(2).collect();
            return Err(input.error(
                format!("\"%{shown}\" is not % and two hexadecimal digits"),
                "write %25 for a %",
            ));
        };
        path.push(byte);
        path.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(path)
}
