//! Endpoints behind a proxy: `proxy+tcp:8007?trust=10.0.0.0/8`.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use ropewalk_middleware::Addr;

use super::input::{Input, PREFIX};
use super::scheme::Identified;
use super::{Endpoint, EndpointError, Kind};
use crate::listener::proxy::Trusted;

/// The problem of a text, and the text to write instead.
type NetworkMistake = (String, String);

impl Endpoint {
    /// Puts the endpoint behind a proxy: each connection begins with a PROXY header (version 1 or
    /// 2), before the TLS handshake if there is one. The client named in the header is the
    /// connection's [`Peer`](crate::Peer), so limits, logs and all code that asks for an address
    /// see the client; [`Peer::proxied`](crate::Peer::proxied) returns the proxy and the header.
    ///
    /// Only headers from these networks are believed. A connection from any other address is closed
    /// before a byte is read, and a connection without a complete and correct header is closed
    /// after 5 s. Networks are required for endpoints with addresses, and not allowed for Unix
    /// sockets: otherwise binding is an error. The permissions of a Unix socket's path determine
    /// which processes may connect; an abstract name has no permissions, so it can't be behind a
    /// proxy.
    ///
    /// ```
    /// use ropewalk::layer::IpNet;
    /// use ropewalk::Endpoint;
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

    /// Checks the trusted networks, once it is known how peers of this endpoint are identified.
    pub(super) fn check_trusted(&self, peers: Identified) -> io::Result<()> {
        let Some(trusted) = &self.proxied else { return Ok(()) };
        let text = match (peers, trusted.networks()) {
            (Identified::ByAddress, []) => {
                "no proxy is trusted: name the networks of your proxies, as in trust=10.0.0.0/8,::1"
            }
            (Identified::ByPermission, [_, ..]) => {
                "trust is for endpoints with addresses: the mode of a Unix socket sets which processes may connect"
            }
            (Identified::Never, _) => ANY_PROCESS,
            _ => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

const ANY_PROCESS: &str =
    "any process can connect to it and send PROXY headers: use TCP, or a Unix socket with a path";

/// How the peers of a listener are identified: never, if its transport has neither networks nor
/// permissions.
pub(super) fn known_by(local: &Addr) -> Identified {
    match local {
        Addr::Tcp(_) => Identified::ByAddress,
        Addr::Unix(_) | Addr::Memory => Identified::ByPermission,
        _ => Identified::Never,
    }
}

/// Whether an endpoint has the option `trust`.
pub(super) fn takes_trust(scheme: &str, kind: &Kind) -> bool {
    scheme.starts_with(PREFIX) && kind.scheme().peers() != Some(Identified::ByPermission)
}

/// Takes the option `trust` out of the others: the networks that an endpoint trusts, if it is
/// behind a proxy.
pub(super) fn take_trusted(
    input: Input<'_>,
    scheme: &str,
    kind: &Kind,
    options: &mut Vec<&str>,
) -> Result<Option<Trusted>, EndpointError> {
    let is_trust = |option: &&str| option.split('=').next() == Some("trust");
    let sign = if options.iter().all(is_trust) { '?' } else { '&' };
    let values: Vec<&str> = options.extract_if(.., |option| is_trust(&&**option)).collect();
    if !scheme.starts_with(PREFIX) {
        let fix = || format!("write {PREFIX}{scheme}:, or drop the option");
        let misplaced =
            || input.error(format!("the option trust is for {PREFIX} endpoints"), fix());
        return if values.is_empty() { Ok(None) } else { Err(misplaced()) };
    }
    let (problem, fix) = match (kind.scheme().peers(), &values[..]) {
        (Some(Identified::Never), _) => {
            let (problem, fix) = ANY_PROCESS.split_once(": ").unwrap_or_default();
            (problem.to_owned(), fix.to_owned())
        }
        (Some(Identified::ByAddress), []) => (
            "it does not say which proxies are trusted".to_owned(),
            format!("add their networks, such as {sign}trust=10.0.0.0/8,::1"),
        ),
        // For an inherited socket this is checked when it is bound.
        (_, []) => return Ok(Some(Trusted::new([]))),
        (Some(Identified::ByPermission), _) => (
            "the option trust is for endpoints with addresses".to_owned(),
            "set the permissions by mode=, such as mode=660, and drop the option".to_owned(),
        ),
        (_, [value]) => match networks(value.split_once('=').map_or("", |(_, value)| value)) {
            Ok(trusted) => return Ok(Some(trusted)),
            Err(fault) => fault,
        },
        _ => (
            "the option trust is given twice".to_owned(),
            "keep one, with commas between the networks".to_owned(),
        ),
    };
    Err(input.error(problem, fix))
}

/// The networks of `trust=`.
fn networks(text: &str) -> Result<Trusted, NetworkMistake> {
    if text.is_empty() {
        return Err(("trust= names no network".to_owned(), EXAMPLE.to_owned()));
    }
    text.split(',').map(network).collect::<Result<Vec<_>, _>>().map(Trusted::new)
}

const EXAMPLE: &str = "write the networks of the proxies, such as trust=10.0.0.0/8,::1";

fn network(text: &str) -> Result<IpNet, NetworkMistake> {
    let network = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => {
            text.parse().map_err(|_| (format!("{text:?} is not a network"), EXAMPLE.to_owned()))?
        }
    };
    if network.addr() != network.network() {
        let fix = format!("write {} or {}", network.trunc(), network.addr());
        return Err((format!("{text:?} is an address within a network, not a network"), fix));
    }
    Ok(network)
}

/// The value of `trust=`, if it has one.
pub(super) fn display(trusted: &Trusted) -> Option<String> {
    let networks: Vec<String> =
        trusted.networks().iter().map(|network| Network(network).to_string()).collect();
    (!networks.is_empty()).then(|| format!("trust={}", networks.join(",")))
}

/// A single address is written without the prefix length.
struct Network<'a>(&'a IpNet);

impl fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}
