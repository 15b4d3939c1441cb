//! Where a client connects to: the places of endpoints, with options of their own.

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
use super::input::{ENCRYPTED, PREFIX};
use super::ipv6::Scoped;
#[cfg(feature = "tls")]
use crate::tls::ClientTls;

/// A connection under way, as [`Dial::dial`] returns it.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<(Stream, Peer)>> + Send + 'a>>;

/// Something that makes connections: to a [`Remote`] what a [`Listener`](crate::Listener) is to an
/// [`Endpoint`](crate::Endpoint). A foreign transport (vsock, a simulated network) is one implementation away, and
/// [`Stream::from_io`] takes its streams; [`memory::Connector`](crate::memory::Connector) is one.
pub trait Dial: Send + Sync + 'static {
    /// Makes one connection. It is cancel safe: a future dropped before it is ready leaves no connection. The caller sets a
    /// deadline.
    fn dial(&self) -> Dialing<'_>;

    /// The address it connects to, for error messages.
    fn addr(&self) -> Addr;
}

/// Where a client connects to.
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
/// Options follow behind a `?`, with `&` between them. `from=ADDRESS` is the local address of a TCP connection.
/// `header=1` or `header=2` is the version of the PROXY header (2), for `proxy+` only. With TLS, `ca` is a PEM file with
/// the roots; `name` the name that the certificate must have and that is asked for (SNI), which else is the host, and
/// which a Unix socket needs; `cert` and `key` are the client's own certificate, for servers that ask for one; `alpn=a,b`
/// names the protocols offered, the best first. In paths and names `%26` stands for `&`, as any byte may be written.
///
/// A name's addresses are tried in turns of the two families, the next one after 250 ms or as soon as one has failed. A
/// port alone (`tcp:8007`) does not say whom to connect to, and is refused.
///
/// TCP sockets have the options of accepted ones: see [`Endpoint`](crate::Endpoint).
///
/// ```
/// use ropewalk::Remote;
///
/// # fn main() -> Result<(), ropewalk::EndpointError> {
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
    /// The version of the PROXY header, where one is written.
    pub(crate) proxied: Option<Version>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<ClientTls>,
}

/// The place.
#[derive(Clone)]
pub(crate) enum To {
    Tcp(SocketAddr),
    Scoped(Scoped),
    /// A host name and a port.
    Name(String, u16),
    Unix(PathBuf),
    Abstract(Arc<[u8]>),
    Dial(Arc<dyn Dial>),
}

impl Remote {
    /// A TCP address.
    pub fn tcp(addr: SocketAddr) -> Self {
        To::Tcp(addr).into()
    }

    /// A Unix socket at a path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        To::Unix(path.into()).into()
    }

    /// A name in Linux's abstract namespace.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> Self {
        To::Abstract(name.as_ref().into()).into()
    }

    /// What connects by means of its own.
    pub fn dial(dial: impl Dial) -> Self {
        To::Dial(Arc::new(dial)).into()
    }

    /// The local address of a TCP connection. For other places it means nothing.
    #[must_use]
    pub fn from_ip(mut self, ip: IpAddr) -> Self {
        self.from = Some(ip);
        self
    }

    /// The connection begins with a PROXY header of this version. It tells of the connection itself: of its own address, and of
    /// the remote's.
    #[must_use]
    pub fn proxied(mut self, version: Version) -> Self {
        self.proxied = Some(version);
        self
    }

    /// The same with TLS. Any remote may have it, one in memory too.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Reads the files that it names, if that has not been done yet, so that what is wrong with them shows before the first
    /// connection. It waits for the file system.
    ///
    /// # Errors
    ///
    /// Those of [`ClientTls::load`], and where there is no name that the certificate could be verified by.
    #[cfg(feature = "tls")]
    pub fn load(&self) -> Result<(), crate::tls::TlsError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        tls.load()?;
        tls.server_name(self.host().as_deref()).map(drop)
    }

    /// The name by which the peer of a TCP connection is called: a certificate must have it, unless another is given.
    #[cfg(feature = "tls")]
    pub(crate) fn host(&self) -> Option<String> {
        match &self.to {
            To::Tcp(addr) => Some(addr.ip().to_string()),
            To::Scoped(scoped) => Some(scoped.ip.to_string()),
            To::Name(host, _) => Some(host.trim_end_matches('.').to_owned()),
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
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl fmt::Display for Remote {
    /// The string that parses to the same remote. What connects by means of its own has none, and is written as `memory:`, or
    /// as `dial:` and its address; roots and certificates that are in no file are not written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.proxied.is_some() {
            f.write_str(PREFIX)?;
        }
        let is_tcp = matches!(self.to, To::Tcp(_) | To::Scoped(_) | To::Name(..));
        #[cfg(feature = "tls")]
        let encrypted = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let encrypted = false;
        if encrypted && !is_tcp {
            f.write_str(ENCRYPTED)?;
        }
        let tcp = if encrypted { "tls" } else { "tcp" };
        match &self.to {
            To::Tcp(addr) => write!(f, "{tcp}:{addr}")?,
            To::Scoped(Scoped { ip, interface, port }) => write!(f, "{tcp}:[{ip}%{interface}]:{port}")?,
            To::Name(host, port) => write!(f, "{tcp}:{host}:{port}")?,
            To::Unix(path) => write!(f, "{}", Addr::Unix(Some(path.as_path().into())))?,
            To::Abstract(name) => write!(f, "{}", Addr::Abstract(Arc::clone(name)))?,
            To::Dial(dial) => match dial.addr() {
                Addr::Memory => f.write_str("memory:")?,
                addr => write!(f, "dial:{addr}")?,
            },
        }
        let mut sign = '?';
        if let Some(from) = self.from {
            write!(f, "?from={from}")?;
            sign = '&';
        }
        if let Some(Version::V1) = self.proxied {
            write!(f, "{sign}header=1")?;
            sign = '&';
        }
        #[cfg(feature = "tls")]
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
