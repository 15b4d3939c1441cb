//! Keys by which layers tell connections apart.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::Connection;

/// The key of a connection, for a layer; `None` if the layer does not apply to it.
pub(crate) type KeyOf<K> = Arc<dyn Fn(&Connection) -> Option<K> + Send + Sync>;

/// The peer's address as limits distinguish peers: see [`Peer::host`](crate::Peer::host).
pub fn host(connection: &Connection) -> Option<IpAddr> {
    connection.peer().host()
}

/// The network of the peer's address, with these prefix lengths for IPv4 and IPv6. Peers without an
/// address have no key.
///
/// # Panics
///
/// Panics if a prefix is longer than an address: 32 bits for IPv4, 128 for IPv6.
///
/// ```
/// use ropewalk_middleware::{KeyLimitLayer, key};
///
/// let by_network = KeyLimitLayer::by(200, key::network(24, 48));
/// ```
pub fn network(
    ipv4: u8,
    ipv6: u8,
) -> impl Fn(&Connection) -> Option<IpNet> + Send + Sync + 'static {
    assert!(ipv4 <= 32 && ipv6 <= 128, "a prefix is no longer than an address");
    move |connection| {
        let ip = connection.peer().ip()?.to_canonical();
        let prefix = if ip.is_ipv4() { ipv4 } else { ipv6 };
        Some(IpNet::new(ip, prefix).ok()?.trunc())
    }
}

/// The host name that the peer asked for in its TLS handshake, in lower case; `None` without one.
/// The peer chooses it: at most 255 bytes, any name that the server has a certificate for.
pub fn server_name(connection: &Connection) -> Option<Arc<str>> {
    connection.tls()?.server_name().map(Arc::from)
}
