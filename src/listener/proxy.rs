//! The PROXY header before a connection, accepted only from trusted proxies.

use std::fmt;
use std::io;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, aside, event};
use ropewalk_middleware::proxy::{Header, HeaderError, ParseStatus, parse};
use ropewalk_middleware::{Escaped, Peer, Stream};
use tokio::io::AsyncReadExt;

use super::preamble::{Step, StepFuture};

/// How long a header may take in total. It allows for one lost segment, which arrives by
/// retransmission after at most 3 s.
const HEADER: Duration = Duration::from_secs(5);

/// The networks of the proxies whose headers are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trusted(Vec<IpNet>);

impl Trusted {
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(canonical).collect())
    }

    pub(crate) fn networks(&self) -> &[IpNet] {
        &self.0
    }

    /// A peer with an address is trusted if one of the networks contains it. A peer on a Unix
    /// socket or in memory is trusted, because the path's permissions, or code, have allowed it to
    /// connect.
    fn trusts(&self, peer: &Peer) -> bool {
        peer.ip().is_none_or(|ip| self.0.iter().any(|network| network.contains(&ip)))
    }
}

/// The network in the form of peers' addresses: without host bits, and mapped IPv4 as IPv4.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(Ok(v4)) = v6.prefix_len().checked_sub(96).map(|len| Ipv4Net::new(v4, len))
    {
        return IpNet::V4(v4.trunc());
    }
    network.trunc()
}

/// The step that reads the header, and makes the client named in it the peer.
pub(crate) struct ReadHeader {
    trusted: Trusted,
    log: Limit,
}

impl ReadHeader {
    pub(crate) fn new(trusted: Trusted) -> Self {
        let more =
            |suppressed| event!(WARN, suppressed, "more connections were closed before they began");
        Self { trusted, log: Limit::new(Level::WARN, more) }
    }
}

impl Step for ReadHeader {
    fn name(&self) -> &'static str {
        "PROXY header"
    }

    fn within(&self) -> Duration {
        HEADER
    }

    fn check(&self, peer: &Peer) -> io::Result<()> {
        if self.trusted.trusts(peer) {
            return Ok(());
        }
        warn(&self.log, peer, &Untrusted);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, Untrusted))
    }

    fn run(&self, mut stream: Stream, peer: Peer) -> StepFuture {
        let log = self.log.clone();
        Box::pin(async move {
            let header = read(&mut stream).await.inspect_err(|error| {
                if let Some(error) =
                    error.get_ref().and_then(|error| error.downcast_ref::<HeaderError>())
                {
                    warn(&log, &peer, error);
                }
            })?;
            Ok((stream, Peer::via(peer, header)))
        })
    }
}

/// Reads a header and not a byte more, because the next bytes belong to the next step or the
/// service.
async fn read(stream: &mut Stream) -> io::Result<Header> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            ParseStatus::Complete { header, .. } => return Ok(header),
            ParseStatus::Incomplete { need } => {
                if (&mut *stream).take(need as u64).read_buf(&mut bytes).await? == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the peer closed before its PROXY header was complete",
                    ));
                }
            }
        }
    }
}

/// An untrusted proxy, or one that sends no header, is probably a configuration error: it is
/// logged, at a limited rate.
fn warn(log: &Limit, peer: &Peer, problem: &dyn fmt::Display) {
    if log.pass() {
        let peer = format!("{:?}", Escaped::display(peer));
        let problem = problem.to_string();
        aside!(WARN, %peer, "a connection was closed before it began: {problem}");
    }
}

/// The error of a peer that is not trusted.
#[derive(Debug)]
struct Untrusted;

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its peer is not in the networks trusted to send PROXY headers (trust=)")
    }
}

impl std::error::Error for Untrusted {}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ropewalk_middleware::{Addr, Peer};

    use super::Trusted;

    fn trusts(networks: &[&str], ip: &str) -> bool {
        let trusted = Trusted::new(networks.iter().map(|network| network.parse().unwrap()));
        trusted.trusts(&Peer::new(Addr::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into())))
    }

    #[test]
    fn a_peer_is_trusted_by_its_address_in_any_form() {
        let networks =
            ["10.0.0.0/8", "::1/128", "2001:db8::/32", "::ffff:192.0.2.0/120", "203.0.113.77/24"];
        for ip in [
            "10.0.0.0",
            "10.255.255.255",
            "::ffff:10.1.2.3",
            "::1",
            "2001:db8:1::1",
            "192.0.2.9",
            "203.0.113.1",
        ] {
            assert!(trusts(&networks, ip), "{ip}");
        }
        for ip in [
            "11.0.0.0",
            "127.0.0.1",
            "::ffff:11.0.0.0",
            "::2",
            "2001:db9::1",
            "::10.0.0.1",
            "192.0.3.9",
        ] {
            assert!(!trusts(&networks, ip), "{ip}");
        }
        assert!(!trusts(&[], "127.0.0.1"));
    }

    #[test]
    fn a_peer_without_an_address_is_trusted() {
        for addr in [Addr::Unix(None), Addr::Memory] {
            assert!(Trusted::new([]).trusts(&Peer::new(addr)));
        }
    }
}
