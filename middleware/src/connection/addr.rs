//! Addresses, and how they are written.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::percent;

/// The character that ends a path or name in an endpoint's string.
const RESERVED: &[char] = &['?'];

/// An address of any kind of endpoint.
///
/// `Display` writes it as an endpoint string, `tcp:127.0.0.1:8007` or `unix:/run/x.sock`. In a path
/// `%`, `?`, control characters and bytes that are not UTF-8 are written as `%` and two hexadecimal
/// digits, so that the address is one line and can be parsed; an abstract name has an `@` before
/// it, `unix:@name`, so an `@` at the start of a path is written as `%40`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path; most clients have no path.
    Unix(Option<Arc<Path>>),
    /// A name in Linux's abstract namespace, without the leading NUL.
    Abstract(Arc<[u8]>),
    /// An in-process connection.
    Memory,
}

impl Addr {
    /// The transport in the words of OpenTelemetry: `network.transport`.
    pub(crate) fn transport(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Unix(_) | Self::Abstract(_) => "unix",
            Self::Memory => "pipe",
        }
    }

    /// The same, with an IPv4 address mapped into IPv6 as an IPv4 address.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Tcp(SocketAddr::V6(addr)) => match addr.ip().to_ipv4_mapped() {
                Some(v4) => Self::Tcp((v4, addr.port()).into()),
                None => self,
            },
            _ => self,
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl From<tokio::net::unix::SocketAddr> for Addr {
    fn from(addr: tokio::net::unix::SocketAddr) -> Self {
        match addr.as_abstract_name() {
            Some(name) => Self::Abstract(name.into()),
            None => Self::Unix(addr.as_pathname().map(Arc::from)),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
            Self::Unix(Some(path)) => {
                f.write_str("unix:")?;
                write_path(f, path.as_os_str())
            }
            Self::Abstract(name) => {
                f.write_str("unix:@")?;
                percent::write(f, name, RESERVED)
            }
            Self::Unix(None) => f.write_str("unix:"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

/// Writes a path so that it can be parsed.
fn write_path(f: &mut fmt::Formatter<'_>, path: &OsStr) -> fmt::Result {
    let path = path.as_bytes();
    // A path that begins with two slashes would be parsed as a URL, one that begins with an "@" as
    // an abstract name.
    let encoded = usize::from(path.starts_with(b"//") || path.starts_with(b"@"));
    percent::write_encoded(f, &path[..encoded])?;
    percent::write(f, &path[encoded..], RESERVED)
}
