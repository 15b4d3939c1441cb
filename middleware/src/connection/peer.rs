//! The other end of a connection.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::tls::TlsInfo;
use crate::proxy::{Header, Proxied};

/// An address of any kind of endpoint.
///
/// `Display` writes it as an endpoint string, `tcp:127.0.0.1:8007` or `unix:/run/x.sock`. In a path `%`, `?`, control
/// characters and bytes that are not UTF-8 are written as `%` and two hexadecimal digits, so that the address is one
/// line and can be parsed; an abstract name has an `@` before it, `unix:@name`, so an `@` at the start of a path is
/// written as `%40`.
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
                write_bytes(f, name)
            }
            Self::Unix(None) => f.write_str("unix:"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

/// Writes a path so that it can be parsed.
fn write_path(f: &mut fmt::Formatter<'_>, path: &OsStr) -> fmt::Result {
    let path = path.as_bytes();
    // A path that begins with two slashes would be parsed as a URL, one that begins with an "@" as an abstract name.
    if path.starts_with(b"//") || path.starts_with(b"@") {
        write!(f, "%{:02X}", path[0])?;
        return write_bytes(f, &path[1..]);
    }
    write_bytes(f, path)
}

/// Writes bytes so that they can be parsed: harmless bytes as they are, any other byte as `%` and two hexadecimal
/// digits.
fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if matches!(c, '%' | '?') || c.is_control() {
                c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            } else {
                write!(f, "{c}")?;
            }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
    }
    Ok(())
}

/// The process at the other end of a Unix socket, as reported by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, if the system reports it.
    pub pid: Option<i32>,
}

impl From<tokio::net::unix::UCred> for Credentials {
    fn from(cred: tokio::net::unix::UCred) -> Self {
        Self { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    addr: Addr,
    // Boxed, because every connection has a `Peer`, and most have no more than an address.
    more: Option<Box<More>>,
}

/// The data of a peer other than its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct More {
    credentials: Option<Credentials>,
    tls: Option<TlsInfo>,
    proxied: Option<Arc<Proxied>>,
}

impl Peer {
    /// A peer with this address. An IPv4 address mapped into IPv6, as sockets of both families report it, becomes an
    /// IPv4 address.
    pub fn new(addr: impl Into<Addr>) -> Self {
        Self { addr: addr.into().canonical(), more: None }
    }

    /// The peer described by a proxy's header: its address is the client's, and it has no credentials, because those
    /// are the proxy's. If the header has no address (`UNKNOWN`, `LOCAL`, a datagram), the peer is the proxy itself.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use ropewalk_middleware::{Addr, Peer};
    /// use ropewalk_middleware::proxy::Header;
    ///
    /// # fn main() -> Result<(), std::net::AddrParseError> {
    /// let client: SocketAddr = "192.0.2.7:56324".parse()?;
    /// let proxy: SocketAddr = "10.0.0.1:40000".parse()?;
    /// let header = Header::new(client, "192.0.2.1:25".parse::<SocketAddr>()?);
    ///
    /// let peer = Peer::via(Peer::new(proxy), header);
    /// assert_eq!(peer.addr(), &Addr::Tcp(client));
    /// assert_eq!(peer.proxied().map(|told| told.proxy().addr()), Some(&Addr::Tcp(proxy)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn via(proxy: Self, header: Header) -> Self {
        let mut peer = match header.client() {
            Some(client) => Self::new(client.clone()),
            None => proxy.clone(),
        };
        peer.more_mut().proxied = Some(Arc::new(Proxied::new(proxy, header)));
        peer
    }

    /// The same, with the credentials of a Unix socket's peer.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.more_mut().credentials = Some(credentials);
        self
    }

    /// The same, with the result of a TLS handshake.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsInfo) -> Self {
        self.more_mut().tls = Some(tls);
        self
    }

    /// The peer's address; behind a proxy that sent it (see [`proxied`](Self::proxied)) the client's.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// The peer's IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.addr {
            Addr::Tcp(addr) => Some(addr.ip()),
            _ => None,
        }
    }

    /// The address by which limits distinguish peers: an IPv4 address, or the first 64 bits of an IPv6 address, because
    /// one host may use all addresses with these bits. Behind a proxy that sent it, the client's.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use ropewalk_middleware::{Addr, Peer};
    ///
    /// let host = |text: &str| text.parse::<SocketAddr>().ok().and_then(|addr| Peer::new(addr).host());
    /// assert_eq!(host("[2001:db8:0:1::2]:80"), host("[2001:db8:0:1:ffff::]:8080"));
    /// assert_ne!(host("192.0.2.1:80"), host("192.0.2.2:80"));
    /// assert_eq!(Peer::new(Addr::Unix(None)).host(), None);
    /// ```
    pub fn host(&self) -> Option<IpAddr> {
        self.ip().map(host)
    }

    /// The peer's process, user and group, on a Unix socket.
    pub fn credentials(&self) -> Option<Credentials> {
        self.more.as_ref()?.credentials
    }

    /// The result of the TLS handshake; `None` without TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.more.as_ref()?.tls.as_ref()
    }

    /// The peer's certificates in DER, its own first, if the server asks for one and has verified it; otherwise empty.
    pub fn certificates(&self) -> &[Vec<u8>] {
        self.tls().map_or(&[], TlsInfo::certificates)
    }

    /// The PROXY header of a proxy, and the proxy itself; `None` if the endpoint expects no header.
    pub fn proxied(&self) -> Option<&Proxied> {
        self.more.as_ref()?.proxied.as_deref()
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// The address that counts as one peer.
pub(crate) fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}
