//! Version 2: binary.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crc::{CRC_32_ISCSI, Crc};

use super::header::{FIXED, MAX_BLOCK, PATH};
use super::tlv;
use super::{Header, HeaderError, MAX_HEADER, ParseStatus, Transport, Version, may_start};
use crate::connection::Addr;

const START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The family in the 14th byte.
#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

impl Family {
    /// The number of bytes of its two addresses, with their ports.
    fn block(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::Inet => 12,
            Self::Inet6 => 36,
            Self::Unix => MAX_BLOCK,
        }
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<ParseStatus, HeaderError> {
    if !may_start(bytes, START) {
        return Err(HeaderError::NoHeader);
    }
    let local = bytes.get(START.len()).map_or(Ok(false), |byte| command(*byte))?;
    let (family, transport) = match bytes.get(START.len() + 1) {
        // The family is ignored for a proxy's own connection.
        Some(byte) => {
            family(*byte).or_else(|error| if local { Ok(UNSPECIFIED) } else { Err(error) })?
        }
        None => UNSPECIFIED,
    };
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(ParseStatus::Incomplete { need: FIXED - bytes.len() });
    };
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > MAX_HEADER {
        return Err(HeaderError::TooLarge { len });
    }
    let told =
        !local && transport != Transport::Unspecified && !matches!(family, Family::Unspecified);
    if told && len < FIXED + family.block() {
        return Err(HeaderError::TooShort { len });
    }
    let Some(whole) = bytes.get(..len) else {
        return Ok(ParseStatus::Incomplete { need: len - bytes.len() });
    };
    let (block, tlvs) = whole[FIXED..].split_at_checked(family.block()).unwrap_or((&[], &[]));
    let tlvs = match tlv::check(tlvs) {
        Ok(checksum) => {
            check(whole, checksum.map(|at| len - tlvs.len() + at))?;
            tlvs
        }
        // If the addresses have to be skipped, it is unknown where the values begin.
        Err(HeaderError::BadTlv) if !told => &[],
        Err(error) => return Err(error),
    };
    let addresses = if told { addresses(family, block) } else { None };
    let transport = if told { transport } else { Transport::Unspecified };
    let header = Header { version: Version::V2, local, transport, addresses, tlvs: tlvs.into() };
    Ok(ParseStatus::Complete { header, len })
}

/// Whether the connection is the proxy's own.
fn command(byte: u8) -> Result<bool, HeaderError> {
    match (byte >> 4, byte & 0x0f) {
        (2, 0) => Ok(true),
        (2, 1) => Ok(false),
        (2, command) => Err(HeaderError::BadCommand(command)),
        (version, _) => Err(HeaderError::BadVersion(version)),
    }
}

const UNSPECIFIED: (Family, Transport) = (Family::Unspecified, Transport::Unspecified);

fn family(byte: u8) -> Result<(Family, Transport), HeaderError> {
    let family = match byte >> 4 {
        0 => Family::Unspecified,
        1 => Family::Inet,
        2 => Family::Inet6,
        3 => Family::Unix,
        _ => return Err(HeaderError::BadFamily(byte)),
    };
    let transport = match byte & 0x0f {
        0 => Transport::Unspecified,
        1 => Transport::Stream,
        2 => Transport::Datagram,
        _ => return Err(HeaderError::BadFamily(byte)),
    };
    Ok((family, transport))
}

fn addresses(family: Family, block: &[u8]) -> Option<(Addr, Addr)> {
    match family {
        Family::Unspecified => None,
        Family::Inet => {
            let (source, rest) = block.split_first_chunk::<4>()?;
            let (destination, ports) = rest.split_first_chunk::<4>()?;
            with_ports(Ipv4Addr::from(*source), Ipv4Addr::from(*destination), ports)
        }
        Family::Inet6 => {
            let (source, rest) = block.split_first_chunk::<16>()?;
            let (destination, ports) = rest.split_first_chunk::<16>()?;
            with_ports(Ipv6Addr::from(*source), Ipv6Addr::from(*destination), ports)
        }
        Family::Unix => {
            let (source, destination) = block.split_at_checked(PATH)?;
            Some((path(source), path(destination)))
        }
    }
}

fn with_ports<T>(source: T, destination: T, ports: &[u8]) -> Option<(Addr, Addr)>
where
    SocketAddr: From<(T, u16)>,
{
    let &[a, b, c, d] = ports.first_chunk()?;
    let source = SocketAddr::from((source, u16::from_be_bytes([a, b])));
    let destination = SocketAddr::from((destination, u16::from_be_bytes([c, d])));
    Some((source.into(), destination.into()))
}

/// A path ends at its first zero. After a leading zero comes an abstract name, padded with zeros; a
/// field of zeros only means a client without a name.
fn path(field: &[u8]) -> Addr {
    if let [0, name @ ..] = field {
        let len = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        return if len == 0 { Addr::Unix(None) } else { Addr::Abstract(name[..len].into()) };
    }
    let path = field.split(|byte| *byte == 0).next().unwrap_or_default();
    Addr::Unix((!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)).into()))
}

/// The checksum of a header, the four bytes at `at` taken as zeros.
fn checksum(header: &[u8], at: usize) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&header[..at]);
    digest.update(&[0; 4]);
    digest.update(&header[at + 4..]);
    digest.finalize()
}

fn check(header: &[u8], at: Option<usize>) -> Result<(), HeaderError> {
    match at {
        Some(at) if header[at..at + 4] != checksum(header, at).to_be_bytes() => {
            Err(HeaderError::BadChecksum)
        }
        _ => Ok(()),
    }
}

impl Header {
    /// The header in binary.
    pub fn to_v2(&self) -> Vec<u8> {
        write(self)
    }
}

fn write(header: &Header) -> Vec<u8> {
    let mut bytes = START.to_vec();
    let transport = match header.transport {
        Transport::Unspecified => 0,
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    let (family, block) = match &header.addresses {
        Some((source, destination)) => write_addresses(source, destination),
        None => (0, Vec::new()),
    };
    bytes.extend([0x20 | u8::from(!header.local), family << 4 | transport]);
    // Both were limited when they were made, far below the maximum of the field.
    let len = u16::try_from(block.len() + header.tlvs.len()).unwrap_or(u16::MAX);
    bytes.extend(len.to_be_bytes());
    bytes.extend(block);
    let tlvs = bytes.len();
    bytes.extend(&header.tlvs);
    if let Ok(Some(at)) = tlv::check(&header.tlvs) {
        let sum = checksum(&bytes, tlvs + at);
        bytes[tlvs + at..tlvs + at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// The number of the family, and the block of addresses.
fn write_addresses(source: &Addr, destination: &Addr) -> (u8, Vec<u8>) {
    match (source, destination) {
        (Addr::Tcp(SocketAddr::V4(source)), Addr::Tcp(SocketAddr::V4(destination))) => {
            let ips = [source.ip().octets(), destination.ip().octets()].concat();
            (1, [ips, ports(source.port(), destination.port())].concat())
        }
        (Addr::Tcp(SocketAddr::V6(source)), Addr::Tcp(SocketAddr::V6(destination))) => {
            let ips = [source.ip().octets(), destination.ip().octets()].concat();
            (2, [ips, ports(source.port(), destination.port())].concat())
        }
        (Addr::Unix(_) | Addr::Abstract(_), Addr::Unix(_) | Addr::Abstract(_)) => {
            let mut block = vec![0; MAX_BLOCK];
            for (field, addr) in block.chunks_exact_mut(PATH).zip([source, destination]) {
                let (field, path) = match addr {
                    Addr::Unix(Some(path)) => (field, path.as_os_str().as_bytes()),
                    Addr::Abstract(name) => (&mut field[1..], &**name),
                    _ => continue,
                };
                field.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
            }
            (3, block)
        }
        // No header is made from other addresses.
        _ => (0, Vec::new()),
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}
