//! Endpoints as strings, and conversions to endpoints.

use std::fmt;
use std::iter;
use std::str::FromStr;

use ropewalk_middleware::Addr;

use super::input::PREFIX;
use super::{Endpoint, EndpointError, parse, proxied};
#[cfg(feature = "rustls")]
use super::{input, tls};

impl fmt::Display for Endpoint {
    /// Writes the string that parses to the same endpoint. A listener made in code has no such
    /// string; it is written as `memory:`, or as `listener:` and its address. With TLS, all
    /// endpoints but TCP have the prefix `tls+`. Certificates that don't come from files are
    /// omitted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.proxied.is_some() {
            f.write_str(PREFIX)?;
        }
        f.write_str(&self.with_scheme(self.kind.scheme().to_string()))?;
        #[cfg(not(feature = "rustls"))]
        let sign = '?';
        #[cfg(feature = "rustls")]
        let sign = self.tls.as_ref().map_or(Ok('?'), |config| tls::write(f, config))?;
        let options = self.options.texts().chain(self.proxied.as_ref().and_then(proxied::display));
        for (option, sign) in options.zip(iter::once(sign).chain(iter::repeat('&'))) {
            write!(f, "{sign}{option}")?;
        }
        Ok(())
    }
}

impl Endpoint {
    /// The text for this endpoint when it is bound to this address: with its scheme, such as `tls:`
    /// or `tls+unix:` if it is encrypted.
    pub(crate) fn bound_to(&self, addr: &Addr) -> String {
        self.with_scheme(addr.to_string())
    }

    /// The text of an address, with the scheme of encryption if there is any.
    fn with_scheme(&self, plain: String) -> String {
        #[cfg(feature = "rustls")]
        if self.tls.is_some() {
            return input::encrypted(&plain);
        }
        plain
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        parse::parse(&text)
    }
}

impl TryFrom<&String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &String) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}
