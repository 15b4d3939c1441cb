//! Version 1: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::header::of_one_family;
use super::{Header, HeaderError, ParseStatus, Transport, Version, may_start};
use crate::connection::Addr;

pub(super) const START: &[u8] = b"PROXY ";

/// The shortest line, and the shortest header of either version: `PROXY UNKNOWN` and its end.
pub(super) const SHORTEST: usize = 15;

/// `PROXY TCP4 0.0.0.0 :: 0 0` and its end: the destination may be of the other family.
const SHORTEST_TCP4: usize = 27;

/// `PROXY TCP6 :: :: 0 0` and its end.
const SHORTEST_TCP6: usize = 22;

/// The longest line, with its end.
const LONGEST: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<ParseStatus, HeaderError> {
    if !may_start(bytes, START) {
        return Err(HeaderError::NoHeader);
    }
    for (at, byte) in bytes.iter().enumerate().skip(START.len()) {
        match byte {
            b'\r' => {
                return match bytes.get(at + 1) {
                    None => Ok(ParseStatus::Incomplete { need: 1 }),
                    Some(b'\n') => Ok(ParseStatus::Complete {
                        header: line(&bytes[START.len()..at])?,
                        len: at + 2,
                    }),
                    Some(_) => Err(HeaderError::BadByte),
                };
            }
            // The last position where the CR may be.
            b' '..=b'~' if at + 2 >= LONGEST => return Err(HeaderError::LineTooLong),
            b' '..=b'~' => {}
            _ => return Err(HeaderError::BadByte),
        }
    }
    let text = &bytes[START.len().min(bytes.len())..];
    // At least the end of the line is missing.
    let (shortest, rest) = match text.get(..4) {
        Some(b"TCP4") => (SHORTEST_TCP4, shortest_rest(text)),
        Some(b"TCP6") => (SHORTEST_TCP6, shortest_rest(text)),
        _ => (SHORTEST, 2),
    };
    Ok(ParseStatus::Incomplete { need: shortest.saturating_sub(bytes.len()).max(rest) })
}

/// The least that follows behind this part of a line with addresses: the fields that have not
/// begun, each behind a space, and the end of the line.
fn shortest_rest(text: &[u8]) -> usize {
    match text.iter().filter(|byte| **byte == b' ').count() {
        0 | 1 => " :: 0 0\r\n".len(),
        2 => " 0 0\r\n".len(),
        3 => " 0\r\n".len(),
        _ => "\r\n".len(),
    }
}

/// Parses the text between `PROXY ` and the end of the line, which is all printable ASCII.
fn line(text: &[u8]) -> Result<Header, HeaderError> {
    let text = str::from_utf8(text).map_err(|_| HeaderError::BadByte)?;
    let (protocol, rest) = text.split_once(' ').unwrap_or((text, ""));
    let addresses = match protocol {
        "TCP4" => Some(addresses::<Ipv4Addr>(rest)?),
        "TCP6" => Some(addresses::<Ipv6Addr>(rest)?),
        // The specification says to ignore the rest.
        "UNKNOWN" => None,
        _ => return Err(HeaderError::BadProtocol),
    };
    let transport = if addresses.is_some() { Transport::Stream } else { Transport::Unspecified };
    Ok(Header { version: Version::V1, local: false, transport, addresses, tlvs: Box::default() })
}

/// The source has to be of the named family. Some proxies (nginx with its realip module) name the
/// client's family and write their own address, of another family, as the destination; such headers
/// are read as if both were IPv6.
fn addresses<T>(text: &str) -> Result<(Addr, Addr), HeaderError>
where
    T: FromStr,
    SocketAddr: From<(T, u16)>,
{
    let mut fields = text.split(' ');
    let mut next = || fields.next().ok_or(HeaderError::BadFields);
    let source = next()?;
    let destination = next()?;
    let source_port = next()?;
    let destination_port = next()?;
    if fields.next().is_some() {
        return Err(HeaderError::BadFields);
    }
    let source: T = source.parse().map_err(|_| HeaderError::BadAddress)?;
    let destination: IpAddr = destination.parse().map_err(|_| HeaderError::BadAddress)?;
    let source = SocketAddr::from((source, port(source_port)?));
    let destination = SocketAddr::new(destination, port(destination_port)?);
    let (source, destination) = of_one_family(source, destination);
    Ok((source.into(), destination.into()))
}

/// Only digits: the standard library also accepts a sign and leading zeros.
fn port(text: &str) -> Result<u16, HeaderError> {
    let canonical =
        text == "0" || (text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'));
    if !canonical {
        return Err(HeaderError::BadPort);
    }
    text.parse().map_err(|_| HeaderError::BadPort)
}

impl Header {
    /// The header as a line of text. It has no room for values, nor for any addresses but those of
    /// TCP: of others it is `PROXY UNKNOWN`, as it is of a connection of the proxy's own.
    pub fn to_v1(&self) -> Vec<u8> {
        write(self)
    }
}

fn write(header: &Header) -> Vec<u8> {
    let line = match (header.client(), header.destination()) {
        (Some(Addr::Tcp(source)), Some(Addr::Tcp(destination))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let from = source.ip();
            let to = destination.ip();
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    };
    line.into_bytes()
}
