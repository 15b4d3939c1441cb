//! Endpoints as strings, and conversions to endpoints.

use std::fmt;
use std::iter;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ropewalk_middleware::Addr;

use super::ipv6::Scoped;
#[cfg(feature = "tls")]
use super::tls;
use super::{Endpoint, EndpointError, Kind, Premade, input, parse, proxied};

impl fmt::Display for Endpoint {
    /// Writes the string that parses to the same endpoint. A listener made in code has no such
    /// string; it is written as `memory:`, or as `listener:` and its address. With TLS, all
    /// endpoints but TCP have the prefix `tls+`. Certificates that don't come from files are
    /// omitted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tcp = self.write_scheme(f)?;
        match &self.kind {
            Kind::Tcp(addr) if addr.ip() == Ipv4Addr::UNSPECIFIED => {
                write!(f, "{tcp}:{}", addr.port())?
            }
            Kind::Tcp(addr) => write!(f, "{tcp}:{addr}")?,
            Kind::Scoped(Scoped { ip, interface, port }) => {
                write!(f, "{tcp}:[{ip}%{interface}]:{port}")?
            }
            Kind::Name(host, port) => write!(f, "{tcp}:{host}:{port}")?,
            Kind::Unix(path) => write!(f, "{}", Addr::Unix(Some(path.as_path().into())))?,
            Kind::Abstract(name) => write!(f, "{}", Addr::Abstract(Arc::clone(name)))?,
            #[cfg(feature = "systemd")]
            Kind::Inherited(which) => which.fmt(f)?,
            Kind::Bound(Premade { addr: Addr::Memory, .. }) => f.write_str("memory:")?,
            Kind::Bound(premade) => write!(f, "listener:{}", premade.addr)?,
        }
        #[cfg(not(feature = "tls"))]
        let sign = '?';
        #[cfg(feature = "tls")]
        let sign = self.tls.as_ref().map_or(Ok('?'), |config| tls::write(f, config))?;
        let options = [
            self.backlog.map(|backlog| format!("backlog={backlog}")),
            self.v6_only.map(|only| format!("v6only={only}")),
            self.access.mode.map(|mode| format!("mode={mode:o}")),
            self.access.user.as_ref().map(|user| format!("user={user}")),
            self.access.group.as_ref().map(|group| format!("group={group}")),
            self.proxied.as_ref().and_then(proxied::display),
        ];
        for (option, sign) in
            options.into_iter().flatten().zip(iter::once(sign).chain(iter::repeat('&')))
        {
            write!(f, "{sign}{option}")?;
        }
        Ok(())
    }
}

impl Endpoint {
    /// Writes the prefixes of its scheme; returns the name of the scheme for TCP after them.
    fn write_scheme(&self, f: &mut fmt::Formatter<'_>) -> Result<&'static str, fmt::Error> {
        if self.proxied.is_some() {
            f.write_str(input::PREFIX)?;
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            if !matches!(self.kind, Kind::Tcp(_) | Kind::Scoped(_) | Kind::Name(..)) {
                f.write_str("tls+")?;
            }
            return Ok("tls");
        }
        Ok("tcp")
    }
}

impl Endpoint {
    /// The text for this endpoint when it is bound to this address: with its scheme, such as `tls:`
    /// or `tls+unix:` if it is encrypted.
    pub(crate) fn bound_to(&self, addr: &Addr) -> String {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return match addr {
                Addr::Tcp(addr) => format!("tls:{addr}"),
                addr => format!("tls+{addr}"),
            };
        }
        addr.to_string()
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

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::tcp(addr)
    }
}
