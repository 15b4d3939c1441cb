//! The other end of a connection.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::addr::Addr;
use super::tls::TlsInfo;
use crate::proxy::Header;

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
    recognized: Option<Arc<str>>,
}

impl Peer {
    /// A peer with this address. An IPv4 address mapped into IPv6, as sockets of both families
    /// report it, becomes an IPv4 address.
    pub fn new(addr: impl Into<Addr>) -> Self {
        Self { addr: addr.into().canonical(), more: None }
    }

    /// The peer described by a proxy's header: its address is the client's, and it has no
    /// credentials, because those are the proxy's. If the header has no address (`UNKNOWN`,
    /// `LOCAL`, a datagram), the peer is the proxy itself.
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

    /// The same, with the name of the protocol that was recognized by its first bytes.
    #[must_use]
    pub fn with_recognized(mut self, protocol: impl Into<Arc<str>>) -> Self {
        self.more_mut().recognized = Some(protocol.into());
        self
    }

    /// The peer's address; behind a proxy that sent it (see [`proxied`](Self::proxied)) the
    /// client's.
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

    /// The address by which limits distinguish peers: an IPv4 address, or the first 64 bits of an
    /// IPv6 address, because one host may use all addresses with these bits. Behind a proxy that
    /// sent it, the client's.
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

    /// The peer's certificates in DER, its own first, if the server asks for one and has verified
    /// it; otherwise empty.
    pub fn certificates(&self) -> &[Vec<u8>] {
        self.tls().map_or(&[], TlsInfo::certificates)
    }

    /// The PROXY header of a proxy, and the proxy itself; `None` if the endpoint expects no header.
    pub fn proxied(&self) -> Option<&Proxied> {
        self.more.as_ref()?.proxied.as_deref()
    }

    /// The name of the protocol that was recognized by the first bytes, on an endpoint that does so;
    /// `None` if no protocol fits them.
    pub fn recognized(&self) -> Option<&str> {
        self.more.as_ref()?.recognized.as_deref()
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// A connection's PROXY header and its sender: see [`Peer::proxied`].
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

    /// The received header, with its values.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The address that the client connected to, if the header has it: the proxy's own address
    /// towards the clients.
    pub fn destination(&self) -> Option<&Addr> {
        self.header.destination()
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
