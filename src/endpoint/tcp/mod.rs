//! `tcp:PORT`, `tcp:ADDRESS:PORT` and `tcp:NAME:PORT`, with TLS as `tls:`.

mod ipv6;
pub(crate) mod listener;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use ropewalk_middleware::Addr;
use tokio::net::lookup_host;

use super::input::Input;
use super::options::{Number, SocketOptions, number};
use super::scheme::{Identified, Opening, Scheme};
use super::{Endpoint, EndpointError, Kind};

pub(crate) use self::ipv6::settle;

use self::ipv6::Scoped;

/// An address of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TcpAddress {
    Ip(SocketAddr),
    /// An IPv6 address with the name of an interface.
    Scoped(Scoped),
    /// A host name and a port.
    Name(String, u16),
}

impl Endpoint {
    /// A TCP address; port 0 means any free port. The flow label of an IPv6 address has no meaning
    /// for listening and is dropped.
    pub fn tcp(mut addr: SocketAddr) -> Self {
        if let SocketAddr::V6(v6) = &mut addr {
            v6.set_flowinfo(0);
        }
        Kind::Tcp(TcpAddress::Ip(addr)).into()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::tcp(addr)
    }
}

impl TcpAddress {
    /// Parses what follows `tcp:` or `tls:`.
    pub(super) fn parse(input: Input<'_>, text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(input.error("there is no port", "write tcp:8007, or tcp:127.0.0.1:8007"));
        }
        if let Some(address) = text.strip_prefix("//") {
            return Err(input.not_a_url(format!("tcp:{address}")));
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            return v6(input, bracketed);
        }
        let Some((host, digits)) = text.rsplit_once(':') else {
            // `tcp:localhost` lacks a port; `tcp:8007x` has a wrong one.
            if text.parse::<Ipv4Addr>().is_ok()
                || text.starts_with(|c: char| c.is_ascii_alphabetic())
            {
                return Err(
                    input.error(format!("{text:?} has no port"), format!("write tcp:{text}:8007"))
                );
            }
            return Ok(Self::Ip((Ipv4Addr::UNSPECIFIED, port(input, text)?).into()));
        };
        if host.is_empty() {
            let fix = format!("write tcp:{digits} for all of IPv4");
            return Err(input.error("there is no address before the last \":\"", fix));
        }
        if text.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok() {
            let problem = format!("the IPv6 address in {text:?} has no brackets");
            return Err(input.error(problem, "write tcp:[ADDRESS]:PORT"));
        }
        check_host(input, host)?;
        let port = port(input, digits)?;
        match host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Self::Ip((ip, port).into())),
            Err(_) => Ok(Self::Name(host.to_owned(), port)),
        }
    }

    /// The addresses of the system's sockets: several if a name has several.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(match self {
            Self::Ip(addr) => vec![*addr],
            Self::Scoped(scoped) => vec![scoped.resolve().await?],
            Self::Name(host, port) => lookup_host((host.as_str(), *port)).await?.collect(),
        })
    }

    /// The address or name, without port and interface.
    #[cfg(feature = "rustls")]
    pub(super) fn host(&self) -> String {
        match self {
            Self::Ip(addr) => addr.ip().to_string(),
            Self::Scoped(scoped) => scoped.ip.to_string(),
            Self::Name(host, _) => host.trim_end_matches('.').to_owned(),
        }
    }
}

/// Parses the rest of an IPv6 address that begins with a bracket.
fn v6(input: Input<'_>, text: &str) -> Result<TcpAddress, EndpointError> {
    let Some((address, rest)) = text.split_once(']') else {
        return Err(input.error("the \"[\" is not closed", "write tcp:[::1]:8007"));
    };
    let Some(digits) = rest.strip_prefix(':') else {
        let problem = if rest.is_empty() {
            "there is no port".to_owned()
        } else {
            format!("{rest:?} is not a \":\" and a port")
        };
        return Err(input.error(problem, format!("write tcp:[{address}]:8007")));
    };
    let port = port(input, digits)?;
    // Parsed with its brackets, so that scopes are accepted: `[fe80::1%2]`.
    match format!("[{address}]:{port}").parse::<SocketAddrV6>() {
        Ok(addr) => Ok(TcpAddress::Ip(addr.into())),
        Err(_) => {
            match Scoped::parse(input, address, port)? {
                Some(scoped) => Ok(TcpAddress::Scoped(scoped)),
                None => Err(input
                    .error(format!("{address:?} is not an IPv6 address"), "write tcp:[::1]:8007")),
            }
        }
    }
}

/// Distinguishes names that can be looked up from mistakes.
fn check_host(input: Input<'_>, host: &str) -> Result<(), EndpointError> {
    if let Some(c) =
        host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
    {
        let fix = if c == ':' {
            "write tcp:ADDRESS:PORT, with one \":\" between"
        } else {
            "write tcp:ADDRESS:PORT"
        };
        return Err(
            input.error(format!("{c:?} in {host:?} is not part of an address or a name"), fix)
        );
    }
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if last.bytes().all(|b| b.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return Err(
            input.error(format!("{host:?} is not an IPv4 address"), "write one like 127.0.0.1")
        );
    }
    Ok(())
}

fn port(input: Input<'_>, digits: &str) -> Result<u16, EndpointError> {
    let fix = "write a port from 0 (any free one) to 65535";
    if digits.is_empty() {
        return Err(input.error("there is no port after the last \":\"", fix));
    }
    number(digits, 10, u32::from(u16::MAX))
        .and_then(|n| u16::try_from(n).map_err(|_| Number::Over))
        .map_err(|fault| match fault {
            Number::Over => input.error(format!("port {digits} is over 65535"), fix),
            Number::None => input.error(format!("{digits:?} is not a port"), fix),
        })
}

/// Whether a text without a scheme looks like an address of this one: its end is a port.
pub(super) fn is_like_an_address(text: &str) -> bool {
    let digits = text.rsplit(':').next().unwrap_or("");
    text.parse::<SocketAddr>().is_ok() || number(digits, 10, u32::from(u16::MAX)).is_ok()
}

impl Scheme for TcpAddress {
    fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Ip(SocketAddr::V6(_)) | Self::Scoped(_) => &["backlog", "v6only"],
            Self::Ip(SocketAddr::V4(_)) | Self::Name(..) => &["backlog"],
        }
    }

    fn addr(&self) -> Option<Addr> {
        match self {
            Self::Ip(addr) => Some(Addr::Tcp(*addr)),
            Self::Scoped(_) | Self::Name(..) => None,
        }
    }

    fn peers(&self) -> Option<Identified> {
        Some(Identified::ByAddress)
    }

    /// Of a name's addresses it is the first that can be bound, or the error of the last one.
    fn open<'a>(&'a self, options: &'a SocketOptions, sockets: usize) -> Opening<'a> {
        Box::pin(async move {
            let mut result =
                Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            for addr in self.resolve().await? {
                match listener::open(addr, options.v6_only, options.system_backlog(), sockets) {
                    Err(error) => result = Err(error),
                    opened => return opened,
                }
            }
            result
        })
    }

    fn advice(&self, errno: i32) -> &'static str {
        match errno {
            libc::EADDRINUSE => {
                "; another program listens there: stop it, or choose another port (0: any free one)"
            }
            libc::EACCES => {
                "; ports below 1024 need root or CAP_NET_BIND_SERVICE: use a port from 1024 up, or grant it"
            }
            libc::EADDRNOTAVAIL => {
                "; this machine has no such address: 0.0.0.0 and [::] stand for all it has"
            }
            _ => "",
        }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) if addr.ip() == Ipv4Addr::UNSPECIFIED => {
                write!(f, "tcp:{}", addr.port())
            }
            Self::Ip(addr) => write!(f, "tcp:{addr}"),
            Self::Scoped(Scoped { ip, interface, port }) => {
                write!(f, "tcp:[{ip}%{interface}]:{port}")
            }
            Self::Name(host, port) => write!(f, "tcp:{host}:{port}"),
        }
    }
}
