//! A PROXY header.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::tlv::{self, Ssl, Tlv, Tlvs};
use super::{HeaderError, MAX_HEADER};
use crate::connection::Addr;

/// In version 2: the signature, version and command, family and transport, and the length of the
/// rest.
pub(super) const FIXED: usize = 16;

/// In version 2: a Unix socket's path, or a zero and its abstract name, padded with zeros.
pub(super) const PATH: usize = 108;

/// The longest block of addresses: two paths.
pub(super) const MAX_BLOCK: usize = 2 * PATH;

/// The two forms of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The transport of the connection to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Not specified.
    Unspecified,
    /// TCP, or a Unix stream socket.
    Stream,
    /// UDP, or a Unix datagram socket.
    Datagram,
}

/// A PROXY header: parsed by [`parse`](super::parse), or built to be sent.
///
/// ```
/// use std::net::SocketAddr;
///
/// use ropewalk_middleware::proxy::{Header, ParseStatus, Tlv, parse};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client: SocketAddr = "192.0.2.7:56324".parse()?;
/// let here: SocketAddr = "192.0.2.1:25".parse()?;
/// let header = Header::new(client, here).with_tlv(Tlv::AUTHORITY, b"mail.example.org")?.with_checksum();
///
/// let bytes = header.to_v2();
/// let ParseStatus::Complete { header, len } = parse(&bytes)? else { panic!("it is whole") };
/// assert_eq!(len, bytes.len());
/// assert_eq!(header.tlv(Tlv::AUTHORITY), Some(&b"mail.example.org"[..]));
/// assert_eq!(header.to_v1(), b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    pub(super) version: Version,
    pub(super) local: bool,
    pub(super) transport: Transport,
    /// Source and destination, both of one family.
    pub(super) addresses: Option<(Addr, Addr)>,
    /// Well-formed, and no longer than a header may be.
    pub(super) tlvs: Box<[u8]>,
}

impl Header {
    /// A header for a forwarded connection: the client's address, and the address that the client
    /// connected to.
    ///
    /// IPv4 addresses mapped into IPv6 are written as IPv4, and two TCP addresses of different
    /// families both as IPv6. Two addresses of different kinds, and addresses that are neither TCP
    /// nor Unix, are left out: the header is then `UNKNOWN` (version 2: unspecified). The same
    /// holds for a Unix path of over 108 bytes, and an abstract name of over 107 bytes or with a
    /// zero at its end.
    pub fn new(source: impl Into<Addr>, destination: impl Into<Addr>) -> Self {
        let addresses = match (source.into().canonical(), destination.into().canonical()) {
            (Addr::Tcp(source), Addr::Tcp(destination)) => {
                let (source, destination) = of_one_family(source, destination);
                Some((source.into(), destination.into()))
            }
            (
                source @ (Addr::Unix(_) | Addr::Abstract(_)),
                destination @ (Addr::Unix(_) | Addr::Abstract(_)),
            ) => (fits(&source) && fits(&destination)).then_some((source, destination)),
            _ => None,
        };
        let transport =
            if addresses.is_some() { Transport::Stream } else { Transport::Unspecified };
        Self { version: Version::V2, local: false, transport, addresses, tlvs: Box::default() }
    }

    /// A header for a connection of the proxy's own, such as a health check: it has no addresses,
    /// so those of the socket apply.
    pub fn local() -> Self {
        let transport = Transport::Unspecified;
        Self { version: Version::V2, local: true, transport, addresses: None, tlvs: Box::default() }
    }

    /// Adds a value. Only version 2 has values.
    ///
    /// # Errors
    ///
    /// When the header would exceed [`MAX_HEADER`] bytes with the longest addresses, and for a
    /// second [`Tlv::CRC32C`] or one of the wrong size. The value of a CRC32c is always replaced by
    /// that of the header.
    pub fn with_tlv(mut self, kind: u8, value: &[u8]) -> Result<Self, HeaderError> {
        let tlvs = tlv::push(&self.tlvs, kind, value);
        let len = FIXED + MAX_BLOCK + tlvs.len();
        if len > MAX_HEADER {
            return Err(HeaderError::TooLarge { len });
        }
        tlv::check(&tlvs)?;
        self.tlvs = tlvs.into();
        Ok(self)
    }

    /// Adds a CRC32c, by which a receiver can check that the header is intact.
    #[must_use]
    pub fn with_checksum(self) -> Self {
        match self.clone().with_tlv(Tlv::CRC32C, &[0; 4]) {
            Ok(header) => header,
            // It has one already, or no room for one.
            Err(_) => self,
        }
    }

    /// The version that was parsed; for a header that was built, [`Version::V2`].
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the connection is the proxy's own, and not that of a client.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// The transport of the connection to the proxy.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The source of the connection to the proxy, if the header has it.
    pub fn source(&self) -> Option<&Addr> {
        self.addresses.as_ref().map(|(source, _)| source)
    }

    /// The destination of the connection to the proxy, if the header has it.
    pub fn destination(&self) -> Option<&Addr> {
        self.addresses.as_ref().map(|(_, destination)| destination)
    }

    /// The client's address, if the header has it: the source, unless it is that of a datagram.
    pub fn client(&self) -> Option<&Addr> {
        self.source().filter(|_| self.transport == Transport::Stream)
    }

    /// The further values, with their types, in order. Empty for version 1.
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs::new(&self.tlvs)
    }

    /// The first value of a type, such as [`Tlv::AUTHORITY`].
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }

    /// The data about the client's TLS, if the client used TLS with the proxy.
    pub fn ssl(&self) -> Option<Ssl<'_>> {
        self.tlv(Tlv::SSL).and_then(Ssl::new)
    }
}

/// Both as they are, or both as IPv6.
pub(super) fn of_one_family(
    source: SocketAddr,
    destination: SocketAddr,
) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        // The scope and flow label of an IPv6 address mean nothing on another machine, and a header
        // has no field for them.
        return (bare(source), bare(destination));
    }
    (
        SocketAddr::new(mapped(source.ip()).into(), source.port()),
        SocketAddr::new(mapped(destination.ip()).into(), destination.port()),
    )
}

fn bare(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Whether an address can be written.
fn fits(addr: &Addr) -> bool {
    match addr {
        Addr::Unix(Some(path)) => {
            let path = path.as_os_str().as_bytes();
            path.len() <= PATH && !path.contains(&0)
        }
        // Zeros at its end could not be distinguished from the padding.
        Addr::Abstract(name) => name.len() < PATH && name.last().is_some_and(|byte| *byte != 0),
        _ => true,
    }
}
