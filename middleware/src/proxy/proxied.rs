//! A peer behind a proxy.

use super::Header;
use crate::connection::{Addr, Peer};

/// A connection's PROXY header and its sender: see [`Peer::proxied`].
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

    /// The received header, with its values.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The address that the client connected to, if the header has it: the proxy's own address towards the clients.
    pub fn destination(&self) -> Option<&Addr> {
        self.header.destination()
    }
}
