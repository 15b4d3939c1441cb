//! Remotes: the addresses that a client connects to, as values and strings.

mod parse;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use ropewalk_middleware::proxy::Version;
use ropewalk_middleware::{Addr, Peer, Stream};

use super::EndpointError;
use super::input::PREFIX;
#[cfg(feature = "rustls")]
use super::input::encrypted;
use super::tcp::TcpAddress;
use super::unix::UnixAddress;
#[cfg(feature = "rustls")]
use crate::tls::ClientTls;

/// A connection under way, as [`Dial::dial`] returns it.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<(Stream, Peer)>> + Send + 'a>>;

/// Makes connections: it is to a [`Remote`] what a [`Listener`](crate::endpoint::Listener) is to an
/// [`Endpoint`](crate::Endpoint). Implement it for another transport (vsock, a simulated network);
/// [`Stream::from_io`] wraps its streams, and [`memory::Connector`](crate::memory::Connector) is an
/// implementation.
pub trait Dial: Send + Sync + 'static {
    /// Makes one connection. It is cancel safe: a future dropped before it is ready leaves no
    /// connection. The caller sets a deadline.
    fn dial(&self) -> Dialing<'_>;

    /// The address it connects to, for error messages.
    fn addr(&self) -> Addr;
}

/// The address that a client connects to.
///
/// It is written as a string or built in code, and `Display` writes the string again:
///
/// | string | connects to |
/// |---|---|
/// | `tcp:192.0.2.1:8007`, `tcp:[2001:db8::1]:8007` | that address |
/// | `tcp:[fe80::1%eth0]:8007` | a link-local address on that interface (or its number) |
/// | `tcp:example.org:8007` | the name's addresses, looked up each time, both families at once (RFC 8305) |
/// | `tls:example.org:8443` | the same with TLS: the certificate is verified by the system's roots (feature `tls`) |
/// | `tls:example.org:8443?ca=ca.pem` | by the roots in that file |
/// | `unix:/run/x.sock`, `unix:@name` | a Unix socket at a path, or by a name of Linux's abstract namespace |
/// | `tls+unix:/run/x.sock?name=example.org` | a Unix socket with TLS |
/// | `proxy+tcp:192.0.2.1:8007` | the connection begins with a PROXY header (before TLS, if there is any) |
///
/// Options follow a `?`, separated by `&`. `from=ADDRESS` is the local address of a TCP connection.
/// `header=1` or `header=2` is the version of the PROXY header (2), for `proxy+` only. With TLS,
/// `ca` is a PEM file with the roots; `name` is the name that the certificate must have and that is
/// sent to the server (SNI), by default the host, and required for a Unix socket; `cert` and `key`
/// are the client's own certificate, for servers that ask for one; `alpn=a,b` lists the offered
/// protocols, the preferred one first. In paths and names any byte may be percent-encoded; `&` is
/// written as `%26`.
///
/// A name's addresses are tried alternating between the two families, the next one after 250 ms or
/// as soon as one has failed. A port alone (`tcp:8007`) has no address to connect to, and is
/// refused.
///
/// TCP sockets have the options of accepted ones: see [`Endpoint`](crate::Endpoint).
///
/// ```
/// use ropewalk::Remote;
///
/// # fn main() -> Result<(), ropewalk::endpoint::EndpointError> {
/// let remote: Remote = "tcp:example.org:8007?from=192.0.2.7".parse()?;
/// assert_eq!(remote.to_string(), "tcp:example.org:8007?from=192.0.2.7");
/// assert!("tcp:8007".parse::<Remote>().unwrap_err().to_string().contains("write tcp:HOST:8007"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Remote {
    pub(crate) to: To,
    pub(crate) from: Option<IpAddr>,
    /// The version of the PROXY header, if one is written.
    pub(crate) proxied: Option<Version>,
    #[cfg(feature = "rustls")]
    pub(crate) tls: Option<ClientTls>,
}

/// The kind of address.
#[derive(Clone)]
pub(crate) enum To {
    Tcp(TcpAddress),
    Unix(UnixAddress),
    Dial(Arc<dyn Dial>),
}

impl Remote {
    /// A TCP address.
    pub fn tcp(addr: SocketAddr) -> Self {
        To::Tcp(TcpAddress::Ip(addr)).into()
    }

    /// A Unix socket at a path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        To::Unix(UnixAddress::Path(path.into())).into()
    }

    /// A name in Linux's abstract namespace.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> Self {
        To::Unix(UnixAddress::Abstract(name.as_ref().into())).into()
    }

    /// A remote of a transport of your own.
    pub fn dial(dial: impl Dial) -> Self {
        To::Dial(Arc::new(dial)).into()
    }

    /// Sets the local address of a TCP connection. Other remotes ignore it.
    #[must_use]
    pub fn from_ip(mut self, ip: IpAddr) -> Self {
        self.from = Some(ip);
        self
    }

    /// Begins the connection with a PROXY header of this version. The header has the addresses of
    /// the connection itself: the local one and the remote's.
    #[must_use]
    pub fn proxied(mut self, version: Version) -> Self {
        self.proxied = Some(version);
        self
    }

    /// The same with TLS. It works with any remote, also one in memory.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Reads the files that it names, if that has not been done yet, so that errors in them show
    /// before the first connection. It blocks on the file system.
    ///
    /// # Errors
    ///
    /// Those of [`ClientTls::load`], and a missing name to verify the certificate by.
    #[cfg(feature = "rustls")]
    pub fn load(&self) -> Result<(), crate::tls::TlsError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        tls.load()?;
        tls.server_name(self.host().as_deref()).map(drop)
    }

    /// The host of a TCP remote: the certificate must have this name, unless another name is set.
    #[cfg(feature = "rustls")]
    pub(crate) fn host(&self) -> Option<String> {
        match &self.to {
            To::Tcp(address) => Some(address.host()),
            _ => None,
        }
    }
}

impl From<To> for Remote {
    fn from(to: To) -> Self {
        Self {
            to,
            from: None,
            proxied: None,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }
}

impl fmt::Display for Remote {
    /// Writes the string that parses to the same remote. A remote of a transport of your own has no
    /// such string; it is written as `memory:`, or as `dial:` and its address. Roots and
    /// certificates that don't come from files are omitted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.proxied.is_some() {
            f.write_str(PREFIX)?;
        }
        let address = match &self.to {
            // Unlike an endpoint, it is written with an address that means any.
            To::Tcp(TcpAddress::Ip(addr)) => format!("tcp:{addr}"),
            To::Tcp(address) => address.to_string(),
            To::Unix(address) => address.to_string(),
            To::Dial(dial) => match dial.addr() {
                Addr::Memory => "memory:".to_owned(),
                addr => format!("dial:{addr}"),
            },
        };
        #[cfg(feature = "rustls")]
        let address = if self.tls.is_some() { encrypted(&address) } else { address };
        f.write_str(&address)?;
        let mut sign = '?';
        if let Some(from) = self.from {
            write!(f, "?from={from}")?;
            sign = '&';
        }
        if let Some(Version::V1) = self.proxied {
            write!(f, "{sign}header=1")?;
            sign = '&';
        }
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            parse::write_tls(f, tls, sign)?;
        }
        let _ = sign;
        Ok(())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({self})")
    }
}

impl FromStr for Remote {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl TryFrom<&str> for Remote {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl TryFrom<String> for Remote {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        parse::parse(&text)
    }
}

impl TryFrom<&String> for Remote {
    type Error = EndpointError;

    fn try_from(text: &String) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl From<SocketAddr> for Remote {
    fn from(addr: SocketAddr) -> Self {
        Self::tcp(addr)
    }
}

impl From<&Self> for Remote {
    fn from(remote: &Self) -> Self {
        remote.clone()
    }
}
