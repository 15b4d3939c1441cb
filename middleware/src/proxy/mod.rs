//! The PROXY protocol: a header before the first byte of a connection, which names the client
//! behind a proxy.
//!
//! A proxy that forwards connections hides where they come from. So it may send a header first, as
//! a line of text (version 1) or in binary (version 2, with room for further values), as the
//! [specification](https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt) says. This module
//! has the header alone, without I/O: [`parse`] reads one, [`Header::to_v1`] and [`Header::to_v2`]
//! write it.
//!
//! ```
//! use ropewalk_middleware::proxy::{ParseStatus, parse};
//!
//! # fn main() -> Result<(), ropewalk_middleware::proxy::HeaderError> {
//! let ParseStatus::Complete { header, len } = parse(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\nEHLO x\r\n")? else {
//!     panic!("there is more to come");
//! };
//! assert_eq!(header.source().map(ToString::to_string).as_deref(), Some("tcp:192.0.2.7:56324"));
//! assert_eq!(len, 41, "what follows belongs to the service");
//! # Ok(())
//! # }
//! ```
//!
//! # What is refused
//!
//! Bytes that are not exactly a header are refused at the first byte that shows it. Version 1: a
//! line of over 107 bytes or without its CRLF, bytes that are not printable ASCII, any other number
//! of spaces, addresses that are not of the family named, ports with signs, leading zeros or over
//! 65535. Version 2: any other version or command, families and transports that do not exist,
//! addresses that do not fit into the length, values (TLVs) that do not fill it exactly, a wrong
//! CRC32c, and a header over [`MAX_HEADER`] bytes.
//!
//! `UNKNOWN`, `LOCAL`, an unspecified family or transport, and datagrams don't name the other end
//! of a stream: they are accepted, and [`Header::client`] is `None`. With `LOCAL` and unspecified
//! ones the address block is skipped.
// We have our own parser because of faults in the existing crates: `ppp` 2.3 accepts ports like
// `+80`, waits for ever after `UNKNOWN a b c d e f` and refuses a LOCAL header with a family;
// `proxy-header` 0.1 accepts `PROXYxTCP4`, port 007 and lines over 107 bytes; `proxy-protocol` 0.5
// panics on a length beyond its input. None of them checks a CRC or limits the size of a header.

mod error;
mod header;
mod tlv;
mod v1;
mod v2;

pub use self::error::HeaderError;
pub use self::header::{Header, Transport, Version};
pub use self::tlv::{Ssl, Tlv, Tlvs};
pub use crate::connection::Proxied;

/// The longest header that is accepted: 4096 bytes in all. A header of version 1 has at most 107.
pub const MAX_HEADER: usize = 4096;

/// The result of [`parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseStatus {
    /// The bytes are a part of a header.
    Incomplete {
        /// The least number of bytes that are missing, never 0. A read of no more than that never
        /// goes past the header.
        need: usize,
    },
    /// The bytes begin with a header.
    Complete {
        /// The header.
        header: Header,
        /// Its size in bytes. The bytes after it belong to the connection.
        len: usize,
    },
}

/// Parses the header at the start of `bytes`.
///
/// The result does not depend on how the bytes were cut into reads: for a prefix it is
/// [`ParseStatus::Incomplete`] or the same error, and bytes after the header change nothing.
///
/// # Errors
///
/// When the bytes can't be the beginning of a header. Close the connection then: its data can't be
/// trusted, and it is unknown where its own bytes begin.
pub fn parse(bytes: &[u8]) -> Result<ParseStatus, HeaderError> {
    match bytes.first() {
        None => Ok(ParseStatus::Incomplete { need: v1::SHORTEST }),
        Some(first) if *first == v1::START[0] => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

/// Whether `bytes` is a prefix of `start`, or begins with it.
fn may_start(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}
