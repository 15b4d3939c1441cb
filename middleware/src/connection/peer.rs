//! Who is at the other end.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::addr::Addr;
use super::tls::TlsInfo;
use crate::proxy::Header;

/// The process at the other end of a Unix socket, as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, where the system tells.
    pub pid: Option<i32>,
}

impl From<tokio::net::unix::UCred> for Credentials {
    fn from(cred: tokio::net::unix::UCred) -> Self {
        Self { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    addr: Addr,
    // Boxed: of most peers nothing more is known, and every connection keeps one.
    more: Option<Box<More>>,
}

/// What is known of a peer beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct More {
    credentials: Option<Credentials>,
    tls: Option<TlsInfo>,
    proxied: Option<Arc<Proxied>>,
}

impl Peer {
    /// A peer known by its address. An IPv4 address mapped into IPv6, as a socket of both families has it, becomes the
    /// IPv4 address it is.
    pub fn new(addr: impl Into<Addr>) -> Self {
        Self { addr: addr.into().canonical(), more: None }
    }

    /// The peer that a proxy's header tells of: its address is the client's, and it has no credentials, as those are
    /// the proxy's. Where the header has no address (`UNKNOWN`, `LOCAL`, a datagram) it stays the proxy itself.
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

    /// The same, with what a TLS handshake settled.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsInfo) -> Self {
        self.more_mut().tls = Some(tls);
        self
    }

    /// The peer's address: behind a proxy that told of it (see [`proxied`](Self::proxied)) the client's.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// The peer's IP address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.addr {
            Addr::Tcp(addr) => Some(addr.ip()),
            _ => None,
        }
    }

    /// The address by which peers are told apart where each is to have its share: an IPv4 address, or the first 64 bits
    /// of an IPv6 address, for one host has all of the rest. Behind a proxy that told of it, the client's.
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

    /// What the TLS handshake settled; `None` where there is no TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.more.as_ref()?.tls.as_ref()
    }

    /// The peer's certificates in DER, its own first, where the server asks for one and has verified it; otherwise
    /// empty.
    pub fn certificates(&self) -> &[Vec<u8>] {
        self.tls().map_or(&[], TlsInfo::certificates)
    }

    /// What a proxy told in its PROXY header, and the proxy itself; `None` where no header was asked for.
    pub fn proxied(&self) -> Option<&Proxied> {
        self.more.as_ref()?.proxied.as_deref()
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// What a connection's PROXY header told, and its sender: see [`Peer::proxied`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxied {
    proxy: Peer,
    header: Header,
}

impl Proxied {
    fn new(proxy: Peer, header: Header) -> Self {
        Self { proxy, header }
    }

    /// The proxy: the peer at the other end of the socket.
    pub fn proxy(&self) -> &Peer {
        &self.proxy
    }

    /// The header as it came, with its values.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the client had connected to, where the header tells: the proxy's address towards the clients.
    pub fn destination(&self) -> Option<&Addr> {
        self.header.destination()
    }
}

/// What counts as one peer.
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
