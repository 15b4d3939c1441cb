//! Who is at the other end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// An address of any kind of endpoint. `Display` writes it as an endpoint string: `tcp:127.0.0.1:8007`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path; most clients have none.
    Unix(Option<Arc<Path>>),
    /// An in-process connection.
    Memory,
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl From<tokio::net::unix::SocketAddr> for Addr {
    fn from(addr: tokio::net::unix::SocketAddr) -> Self {
        Self::Unix(addr.as_pathname().map(Arc::from))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix:"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

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
    credentials: Option<Credentials>,
}

impl Peer {
    /// A peer known by its address.
    pub fn new(addr: impl Into<Addr>) -> Self {
        Self { addr: addr.into(), credentials: None }
    }

    /// The same, with the credentials of a Unix socket's peer.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The peer's address.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// The peer's IP address, where it has one; an IPv4 address mapped into IPv6 comes as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.addr {
            Addr::Tcp(addr) => Some(addr.ip().to_canonical()),
            _ => None,
        }
    }

    /// The peer's process, user and group, on a Unix socket.
    pub fn credentials(&self) -> Option<Credentials> {
        self.credentials
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}
