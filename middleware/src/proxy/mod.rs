//! The PROXY protocol: the client behind a proxy, told in a header before the first byte of the connection itself.
//!
//! A proxy that hands connections on hides where they come from. So it may send a header first, as a line of text
//! (version 1) or in binary (version 2, with room for more), as the
//! [specification](https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt) says. Here is the header alone, without
//! I/O: [`parse`] reads one, [`Header::to_v1`] and [`Header::to_v2`] write it.
//!
//! ```
//! use ropewalk_middleware::proxy::{Parsed, parse};
//!
//! # fn main() -> Result<(), ropewalk_middleware::proxy::HeaderError> {
//! let Parsed::Complete { header, len } = parse(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\nEHLO x\r\n")? else {
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
//! Whatever is not exactly a header, as soon as it shows. Version 1: a line of over 107 bytes or without its CRLF,
//! bytes that are not printable ASCII, any other number of spaces, addresses that are not of the family named, ports
//! with signs, leading zeros or over 65535. Version 2: any other version or command, families and transports that do
//! not exist, addresses that do not fit into the length, values (TLVs) that do not fill it exactly, a wrong CRC32c, and
//! a header over [`MAX_HEADER`] bytes.
//!
//! `UNKNOWN`, `LOCAL`, an unspecified family or transport, and datagrams say nothing of the other end of a
//! stream: they are taken, and [`Header::client`] is `None`. Of `LOCAL` and unspecified ones the address block is
//! skipped unread.
// Our own parser: of the crates there are, `ppp` 2.3 takes ports like `+80`, waits for ever behind `UNKNOWN a b c d e
// f` and refuses a LOCAL header of a family; `proxy-header` 0.1 takes `PROXYxTCP4`, port 007 and lines over 107 bytes;
// `proxy-protocol` 0.5 panics on a length beyond its input. None checks a CRC or bounds a header.

mod error;
mod header;
mod tlv;
mod v1;
mod v2;

pub use self::error::HeaderError;
pub use self::header::{Header, Transport, Version};
pub use self::tlv::{Ssl, Tlv, Tlvs};
pub use crate::connection::Proxied;

/// The longest header that is taken: 4096 bytes, all included. One of version 1 has at most 107.
pub const MAX_HEADER: usize = 4096;

/// What bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Part of a header.
    Incomplete {
        /// How many bytes are missing at least, never 0. A read of no more than that never goes past the header.
        need: usize,
    },
    /// A header.
    Complete {
        /// What it says.
        header: Header,
        /// How many bytes it has. What follows is the connection's own.
        len: usize,
    },
}

/// Reads the header that bytes begin with.
///
/// The answer is that of the bytes, however they came: of a prefix it is [`Parsed::Incomplete`] or the same error, and
/// what follows a header changes nothing.
///
/// # Errors
///
/// When the bytes begin with no header, whatever may follow. The connection is to be closed then: what it says can't be
/// believed, and it is not known where its own bytes begin.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    match bytes.first() {
        None => Ok(Parsed::Incomplete { need: v1::SHORTEST }),
        Some(first) if *first == v1::START[0] => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

/// Whether bytes may be the beginning of something that begins with `start`.
fn may_start(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}
