//! A peer behind a proxy.

use super::Header;
use crate::connection::{Addr, Peer};

/// What a connection's PROXY header told, and its sender: see [`Peer::proxied`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxied {
    proxy: Peer,
    header: Header,
}

impl Proxied {
    pub(crate) fn new(proxy: Peer, header: Header) -> Self {
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
