//! Endpoints behind a proxy: `proxy+tcp:8007?trust=10.0.0.0/8`.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use ropewalk_middleware::Addr;

use super::parse::Input;
use super::{Endpoint, EndpointError, Kind};
use crate::listener::proxy::Trusted;

/// What stands before the scheme.
pub(super) const PREFIX: &str = "proxy+";

/// What is wrong with a text, and what to write instead.
type Fault = (String, String);

impl Endpoint {
    /// The same behind a proxy: each connection begins with a PROXY header (version 1 or 2), before TLS if there is any.
    /// The client it tells of is the connection's [`Peer`](crate::Peer), so caps, logs and whatever asks for an address
    /// see it; [`Peer::proxied`](crate::Peer::proxied) has the proxy and the header.
    ///
    /// Only who connects from one of these networks is believed; anybody else is closed without a byte being read, as is
    /// who sends no whole and correct header within 5 s. Networks are for endpoints with addresses, and there is no
    /// default: of an endpoint with addresses and none trusted, and of a Unix socket with any, binding is an error. A Unix
    /// socket's path has its permissions to say who may connect; an abstract name has none, so it can't be behind a proxy.
    ///
    /// ```
    /// use ropewalk::{Endpoint, IpNet};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let networks: [IpNet; 2] = ["10.0.0.0/8".parse()?, "::1/128".parse()?];
    /// let endpoint = Endpoint::tcp("0.0.0.0:8007".parse()?).proxied(networks);
    /// assert_eq!(endpoint.to_string(), "proxy+tcp:8007?trust=10.0.0.0/8,::1");
    /// assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn proxied(mut self, trusted: impl IntoIterator<Item = IpNet>) -> Self {
        self.proxied = Some(Trusted::new(trusted));
        self
    }

    /// Looks at whom it trusts, once it is known what its peers are known by.
    pub(super) fn check_trusted(&self, peers: &Known) -> io::Result<()> {
        let Some(trusted) = &self.proxied else { return Ok(()) };
        let text = match (peers, trusted.networks()) {
            (Known::ByAddress, []) => {
                "no proxy is trusted: name the networks of those that send PROXY headers, as in trust=10.0.0.0/8,::1"
            }
            (Known::ByPermission, [_, ..]) => {
                "trust is for endpoints with addresses: who may connect to a Unix socket is said by its mode"
            }
            (Known::Not, _) => NO_PERMISSIONS,
            _ => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

const NO_PERMISSIONS: &str = "an abstract name has no permissions, so anybody could send PROXY headers: use a path";

/// What a proxy is known by.
pub(super) enum Known {
    /// Its address in the network.
    ByAddress,
    /// That it may connect: to a path with its permissions, or to what code has made.
    ByPermission,
    /// Nothing: every process of this machine may connect.
    Not,
}

impl Known {
    /// The peers of a listener.
    pub(super) fn by(local: &Addr) -> Self {
        match local {
            Addr::Tcp(_) => Self::ByAddress,
            Addr::Abstract(_) => Self::Not,
            _ => Self::ByPermission,
        }
    }
}

/// Whether an endpoint has the option `trust`.
pub(super) fn takes_trust(scheme: &str, kind: &Kind) -> bool {
    scheme.starts_with(PREFIX) && !matches!(kind, Kind::Unix(_))
}

/// Takes the option `trust` from among the others: whom an endpoint trusts, if it is behind a proxy.
pub(super) fn take_trusted(
    input: Input<'_>,
    scheme: &str,
    kind: &Kind,
    options: &mut Vec<&str>,
) -> Result<Option<Trusted>, EndpointError> {
    let is_trust = |option: &&str| option.split('=').next() == Some("trust");
    let sign = if options.iter().all(is_trust) { '?' } else { '&' };
    let values: Vec<&str> = options.extract_if(.., |option| is_trust(&&**option)).collect();
    let (problem, fix) = match (scheme.starts_with(PREFIX).then_some(kind), &values[..]) {
        (None, []) => return Ok(None),
        (None, _) => (
            format!("the option trust is for {PREFIX} endpoints"),
            format!("write {PREFIX}{scheme}:, or drop the option"),
        ),
        (Some(Kind::Abstract(_)), _) => {
            let (problem, fix) = NO_PERMISSIONS.split_once(": ").unwrap_or_default();
            (problem.to_owned(), fix.to_owned())
        }
        (Some(Kind::Tcp(_) | Kind::Scoped(_) | Kind::Name(..)), []) => (
            "it does not say which proxies are trusted".to_owned(),
            format!("add their networks, such as {sign}trust=10.0.0.0/8,::1"),
        ),
        // Of an inherited socket it shows when it is bound whether that is enough.
        (Some(_), []) => return Ok(Some(Trusted::new([]))),
        (Some(Kind::Unix(_)), _) => (
            "the option trust is for endpoints with addresses".to_owned(),
            "say who may connect by mode=, such as mode=660, and drop the option".to_owned(),
        ),
        (Some(_), [value]) => match networks(value.split_once('=').map_or("", |(_, value)| value)) {
            Ok(trusted) => return Ok(Some(trusted)),
            Err(fault) => fault,
        },
        (Some(_), _) => {
            ("the option trust is given twice".to_owned(), "keep one, with commas between the networks".to_owned())
        }
    };
    Err(input.error(problem, fix))
}

/// The networks of `trust=`.
fn networks(text: &str) -> Result<Trusted, Fault> {
    if text.is_empty() {
        return Err(("trust= names no network".to_owned(), EXAMPLE.to_owned()));
    }
    text.split(',').map(network).collect::<Result<Vec<_>, _>>().map(Trusted::new)
}

const EXAMPLE: &str = "write the networks of the proxies, such as trust=10.0.0.0/8,::1";

fn network(text: &str) -> Result<IpNet, Fault> {
    let network = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse().map_err(|_| (format!("{text:?} is not a network"), EXAMPLE.to_owned()))?,
    };
    if network.addr() != network.network() {
        let fix = format!("write {} or {}", network.trunc(), network.addr());
        return Err((format!("{text:?} is an address within a network, not a network"), fix));
    }
    Ok(network)
}

/// The value of `trust=`, if it has one.
pub(super) fn display(trusted: &Trusted) -> Option<String> {
    let networks: Vec<String> = trusted.networks().iter().map(|network| Network(network).to_string()).collect();
    (!networks.is_empty()).then(|| format!("trust={}", networks.join(",")))
}

/// A single address stands without its length.
struct Network<'a>(&'a IpNet);

impl fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}
