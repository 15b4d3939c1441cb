//! IPv6: interfaces in addresses, and sockets that accept IPv4 as well.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use super::super::input::Input;
use super::super::{Endpoint, EndpointError, Kind};
use super::TcpAddress;

/// The longest name of an interface.
const MAX_INTERFACE: usize = 15;

/// An address that is valid on one interface, which is looked up when the endpoint is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scoped {
    pub(super) ip: Ipv6Addr,
    pub(super) interface: String,
    pub(super) port: u16,
}

impl Scoped {
    /// Parses the text in the brackets: `fe80::1%eth0`. `None` if it is not such an address.
    pub(super) fn parse(
        input: Input<'_>,
        address: &str,
        port: u16,
    ) -> Result<Option<Self>, EndpointError> {
        let Some((ip, interface)) = address.split_once('%') else { return Ok(None) };
        let Ok(ip) = ip.parse() else { return Ok(None) };
        let fix = "write tcp:[fe80::1%eth0]:8007";
        if interface.is_empty() {
            return Err(input.error("there is no interface after the \"%\"", fix));
        }
        if let Some(c) = interface.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | '%'))
        {
            return Err(input
                .error(format!("{c:?} in {interface:?} is not part of an interface's name"), fix));
        }
        if interface.len() > MAX_INTERFACE {
            return Err(input.error(
                format!("the interface {interface:?} has over {MAX_INTERFACE} bytes"),
                fix,
            ));
        }
        Ok(Some(Self { ip, interface: interface.to_owned(), port }))
    }

    /// The address with the interface's current number, from the system's resolver.
    pub(crate) async fn resolve(&self) -> io::Result<SocketAddr> {
        let found =
            tokio::net::lookup_host((format!("{}%{}", self.ip, self.interface), self.port)).await;
        found.ok().and_then(|mut found| found.next()).ok_or_else(|| {
            let text = format!(
                "this machine has no interface {} for the address {}",
                self.interface, self.ip
            );
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }
}

impl Endpoint {
    /// If it has the port of another endpoint of the same server, so that only one of them can be
    /// bound: advice on how both can be.
    pub(in crate::endpoint) fn conflict(&self, other: &Self) -> Option<String> {
        match (&self.kind, &other.kind) {
            (Kind::Tcp(TcpAddress::Ip(a)), Kind::Tcp(TcpAddress::Ip(b)))
                if a.port() == b.port() && a.port() != 0 =>
            {
                let dual = |endpoint: &Self, addr: &SocketAddr| {
                    is_any_v6(addr) && endpoint.options.v6_only != Some(true)
                };
                let same_family = a.is_ipv4() == b.is_ipv4();
                let both = same_family
                    && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified());
                let v6 = if dual(self, a) { self } else { other };
                if both {
                    Some("has that port".to_owned())
                } else if !same_family && (dual(self, a) || dual(other, b)) {
                    Some(format!(
                        "has that port, as [::] takes IPv4 too: write {}?v6only=true",
                        v6.place()
                    ))
                } else {
                    None
                }
            }
            (a, b) if a == b => Some("is the same".to_owned()),
            _ => None,
        }
    }
}

fn is_any_v6(addr: &SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.ip().is_unspecified())
}

/// Adjusts the endpoints of one server to one another: if `0.0.0.0` has the same port, `[::]`
/// accepts IPv6 only. With port 0 each gets a port of its own.
pub(crate) fn settle(endpoints: &mut [Endpoint]) {
    let any_v4 = |endpoint: &Endpoint| match endpoint.kind {
        Kind::Tcp(TcpAddress::Ip(SocketAddr::V4(v4))) if v4.ip().is_unspecified() => {
            Some(v4.port())
        }
        _ => None,
    };
    let ports: Vec<u16> = endpoints.iter().filter_map(any_v4).filter(|port| *port != 0).collect();
    for endpoint in endpoints {
        if let Kind::Tcp(TcpAddress::Ip(addr)) = &endpoint.kind
            && is_any_v6(addr)
            && ports.contains(&addr.port())
        {
            endpoint.options.v6_only.get_or_insert(true);
        }
    }
}
