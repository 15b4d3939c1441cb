//! The PROXY header before a connection: believed only from who is trusted.

use std::fmt;
use std::io;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, aside, event};
use ropewalk_middleware::proxy::{Header, HeaderError, Parsed, parse};
use ropewalk_middleware::{Escaped, Peer, Stream};
use tokio::io::AsyncReadExt;

use super::preamble::{Step, StepFuture};

/// How long a header may take in all. One segment may be lost on the way: sent again it comes after 3 s at most.
const HEADER: Duration = Duration::from_secs(5);

/// Who may say in whose name a connection comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trusted(Vec<IpNet>);

impl Trusted {
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(canonical).collect())
    }

    pub(crate) fn networks(&self) -> &[IpNet] {
        &self.0
    }

    /// Where peers have addresses, theirs counts. A peer on a Unix socket or in memory was let in by the path's
    /// permissions, or by code.
    fn trusts(&self, peer: &Peer) -> bool {
        peer.ip().is_none_or(|ip| self.0.iter().any(|network| network.contains(&ip)))
    }
}

/// A network in the form in which peers' addresses come: without host bits, and IPv4 as such.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(Ok(v4)) = v6.prefix_len().checked_sub(96).map(|len| Ipv4Net::new(v4, len))
    {
        return IpNet::V4(v4.trunc());
    }
    network.trunc()
}

/// Reads the header, and makes the client it tells of the peer.
pub(crate) struct ReadHeader {
    trusted: Trusted,
    log: Limit,
}

impl ReadHeader {
    pub(crate) fn new(trusted: Trusted) -> Self {
        let more = |suppressed| event!(WARN, suppressed, "more connections were closed before they began");
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
                if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<HeaderError>()) {
                    warn(&log, &peer, error);
                }
            })?;
            Ok((stream, Peer::via(peer, header)))
        })
    }
}

/// Reads a header and not a byte more: what follows is the next step's, or the service's.
async fn read(stream: &mut Stream) -> io::Result<Header> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Parsed::Complete { header, .. } => return Ok(header),
            Parsed::Incomplete { need } => {
                if (&mut *stream).take(need as u64).read_buf(&mut bytes).await? == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the peer closed before its PROXY header was whole",
                    ));
                }
            }
        }
    }
}

/// A proxy that is not trusted, or sends something else, is a slip in somebody's configuration: worth a line, though
/// not one for each connection.
fn warn(log: &Limit, peer: &Peer, problem: &dyn fmt::Display) {
    if log.pass() {
        let (peer, problem) = (format!("{:?}", Escaped::display(peer)), problem.to_string());
        aside!(WARN, %peer, "a connection was closed before it began: {problem}");
    }
}

/// Why the header of a peer is not read.
#[derive(Debug)]
struct Untrusted;

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its peer is in none of the networks trusted to send PROXY headers (trust=)")
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
    fn a_peer_is_trusted_by_its_address_in_whichever_form_either_is_written() {
        let networks = ["10.0.0.0/8", "::1/128", "2001:db8::/32", "::ffff:192.0.2.0/120", "203.0.113.77/24"];
        for ip in ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3", "::1", "2001:db8:1::1", "192.0.2.9", "203.0.113.1"]
        {
            assert!(trusts(&networks, ip), "{ip}");
        }
        for ip in ["11.0.0.0", "127.0.0.1", "::ffff:11.0.0.0", "::2", "2001:db9::1", "::10.0.0.1", "192.0.3.9"] {
            assert!(!trusts(&networks, ip), "{ip}");
        }
        assert!(!trusts(&[], "127.0.0.1"));
    }

    #[test]
    fn who_has_no_address_is_trusted() {
        for addr in [Addr::Unix(None), Addr::Memory] {
            assert!(Trusted::new([]).trusts(&Peer::new(addr)));
        }
    }
}
