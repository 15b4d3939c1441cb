//! Networks, and whether their peers are served.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use crate::Peer;
#[cfg(feature = "x509")]
use crate::{Identity, IdentityRule};

/// Whether a peer is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The connection is served.
    Allow,
    /// The connection is refused.
    Deny,
}

/// Which networks are served. The rule with the longest prefix that contains the address decides,
/// independent of the order of the rules.
///
/// A second rule for the same network replaces the first. An address that no rule contains gets the
/// default: `Allow` for [`allow_all`](Self::allow_all), `Deny` for [`deny_all`](Self::deny_all).
/// Peers without an address (Unix sockets, memory) are allowed unless
/// [`without_address`](Self::without_address) says otherwise.
///
/// An IPv4 address that is mapped into IPv6 (`::ffff:192.0.2.1`) is treated as the IPv4 address,
/// and so is a mapped network (`::ffff:192.0.2.0/120`). A look-up costs one hash per prefix length
/// in use, at most 162.
///
/// As text, a rule is a line: `allow 192.0.2.0/24`, `deny 2001:db8::/32`, `allow 192.0.2.7`, `deny
/// all`. Empty lines, and the rest of a line after a `#`, are skipped. A line for `all`, the
/// default, is required. With the feature `x509`, `identity spiffe=spiffe://example.org/web` admits
/// only peers with that name in their certificate, or with the one of another such line; it applies
/// in addition to the rules for addresses.
///
/// ```
/// use ropewalk_middleware::access::{AccessRules, Verdict};
///
/// let rules: AccessRules = "
///     allow 192.0.2.0/24      # the office
///     deny  192.0.2.66        # but not this one
///     deny  all
/// ".parse()?;
/// assert_eq!(rules.of_ip("192.0.2.1".parse()?), Verdict::Allow);
/// assert_eq!(rules.of_ip("192.0.2.66".parse()?), Verdict::Deny);
/// assert_eq!(rules.of_ip("198.51.100.1".parse()?), Verdict::Deny);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRules {
    /// The networks by the length of their prefixes.
    networks: BTreeMap<u8, HashMap<IpNet, Verdict>>,
    default: Verdict,
    without_address: Verdict,
    /// If there are any, a peer's certificate has to match one of them.
    #[cfg(feature = "x509")]
    identities: Vec<IdentityRule>,
}

impl AccessRules {
    /// Allows every address except the denied networks.
    #[must_use]
    pub fn allow_all() -> Self {
        Self::with_default(Verdict::Allow)
    }

    /// Denies every address except the allowed networks.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::with_default(Verdict::Deny)
    }

    fn with_default(default: Verdict) -> Self {
        Self {
            networks: BTreeMap::new(),
            default,
            without_address: Verdict::Allow,
            #[cfg(feature = "x509")]
            identities: Vec::new(),
        }
    }

    /// Allows the peers of this network.
    #[must_use]
    pub fn allow(self, network: impl Into<IpNet>) -> Self {
        self.rule(network.into(), Verdict::Allow)
    }

    /// Denies the peers of this network.
    #[must_use]
    pub fn deny(self, network: impl Into<IpNet>) -> Self {
        self.rule(network.into(), Verdict::Deny)
    }

    /// Sets the verdict for peers without an IP address: on Unix sockets, in memory, or behind a
    /// PROXY header that names no IP address.
    #[must_use]
    pub fn without_address(mut self, verdict: Verdict) -> Self {
        self.without_address = verdict;
        self
    }

    /// Serves only peers whose certificate has this name, or that of another rule of this kind, as
    /// far as their address is allowed (feature `x509`). As text it is a line such as `identity
    /// dns=web.example.org`: see [`IdentityRule`].
    #[cfg(feature = "x509")]
    #[must_use]
    pub fn identity(mut self, rule: IdentityRule) -> Self {
        self.identities.push(rule);
        self
    }

    /// Whether a peer with this certificate, or without one, is served as far as its address is
    /// allowed.
    #[cfg(feature = "x509")]
    #[must_use]
    pub fn of_identity(&self, identity: Option<&Identity>) -> Verdict {
        let matches = identity
            .is_some_and(|identity| self.identities.iter().any(|rule| rule.matches(identity)));
        if self.identities.is_empty() || matches { Verdict::Allow } else { Verdict::Deny }
    }

    fn rule(mut self, network: IpNet, verdict: Verdict) -> Self {
        let network = canonical(network);
        self.networks.entry(network.prefix_len()).or_default().insert(network, verdict);
        self
    }

    /// Whether a peer of this address is served.
    #[must_use]
    pub fn of_ip(&self, ip: IpAddr) -> Verdict {
        let ip = ip.to_canonical();
        let longest_first = self.networks.iter().rev();
        longest_first
            .filter_map(|(prefix, networks)| networks.get(&IpNet::new(ip, *prefix).ok()?.trunc()))
            .next()
            .copied()
            .unwrap_or(self.default)
    }

    /// Whether this peer is served. Behind a trusted proxy the address is the client's.
    #[must_use]
    pub fn of_peer(&self, peer: &Peer) -> Verdict {
        peer.ip().map_or(self.without_address, |ip| self.of_ip(ip))
    }

    /// How many networks have a rule.
    #[must_use]
    pub fn len(&self) -> usize {
        self.networks.values().map(HashMap::len).sum()
    }

    /// Whether no network has a rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
}

/// The network without host bits; a network of mapped IPv4 addresses becomes an IPv4 network.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let (Some(v4), Some(prefix)) =
            (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(v4) = Ipv4Net::new(v4, prefix)
    {
        return IpNet::V4(v4.trunc());
    }
    network.trunc()
}

impl FromStr for AccessRules {
    type Err = AccessRulesError;

    fn from_str(text: &str) -> Result<Self, AccessRulesError> {
        let mut rules = Self::deny_all();
        let mut default = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Some(("identity", rule)) = line.split_once(char::is_whitespace) {
                rules = rules
                    .identity_line(rule.trim())
                    .map_err(|problem| AccessRulesError { line: index + 1, problem })?;
                continue;
            }
            match parse(line).map_err(|problem| AccessRulesError { line: index + 1, problem })? {
                (None, verdict) => default = Some(verdict),
                (Some(network), verdict) => rules = rules.rule(network, verdict),
            }
        }
        let missing =
            || AccessRulesError { line: text.lines().count(), problem: Problem::NoDefault };
        rules.default = default.ok_or_else(missing)?;
        Ok(rules)
    }
}

impl AccessRules {
    #[cfg(feature = "x509")]
    fn identity_line(self, rule: &str) -> Result<Self, Problem> {
        Ok(self.identity(rule.parse().map_err(Problem::Identity)?))
    }

    #[cfg(not(feature = "x509"))]
    fn identity_line(self, _: &str) -> Result<Self, Problem> {
        Err(Problem::NoIdentities)
    }
}

/// The network of a line, or `None` for `all`, and its verdict.
fn parse(line: &str) -> Result<(Option<IpNet>, Verdict), Problem> {
    let (verb, network) = line.split_once(char::is_whitespace).ok_or(Problem::Words)?;
    let verdict = match verb {
        "allow" => Verdict::Allow,
        "deny" => Verdict::Deny,
        _ => return Err(Problem::Words),
    };
    let network = network.trim();
    if network == "all" {
        return Ok((None, verdict));
    }
    let address = || network.parse().map(|ip: IpAddr| IpNet::from(ip));
    let network =
        network.parse().or_else(|_| address()).map_err(|_| Problem::Network(network.to_owned()))?;
    Ok((Some(network), verdict))
}

/// Text that is not a list of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRulesError {
    line: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Words,
    Network(String),
    NoDefault,
    #[cfg(feature = "x509")]
    Identity(crate::identity::IdentityRuleError),
    #[cfg(not(feature = "x509"))]
    NoIdentities,
}

impl AccessRulesError {
    /// The number of the line; the first is 1. If a line for `all` is missing, it is the number of
    /// the last line.
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for AccessRulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.problem {
            Problem::Words => f.write_str("a rule is `allow NETWORK` or `deny NETWORK`"),
            #[cfg(feature = "x509")]
            Problem::Identity(error) => error.fmt(f),
            #[cfg(not(feature = "x509"))]
            Problem::NoIdentities => f.write_str("names in certificates need the feature x509"),
            Problem::NoDefault => {
                f.write_str("the last rule is missing: `allow all` or `deny all`")
            }
            Problem::Network(text) => {
                let text = crate::Escaped::new(text.as_bytes());
                write!(
                    f,
                    "{text} is not a network: write 192.0.2.0/24, 2001:db8::/32, one address, or `all`"
                )
            }
        }
    }
}

impl Error for AccessRulesError {}
