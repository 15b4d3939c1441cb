//! Errors of PROXY headers.

use std::error::Error;
use std::fmt;

use super::MAX_HEADER;

/// Why bytes are not a PROXY header, or a header can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// They begin with neither version's signature.
    NoHeader,
    /// Version 1: no CRLF within 107 bytes.
    LineTooLong,
    /// Version 1: a byte that is not printable ASCII, or a CR without its LF.
    BadByte,
    /// Version 1: neither `TCP4`, `TCP6` nor `UNKNOWN`.
    BadProtocol,
    /// Version 1: not two addresses and two ports with one space between each.
    BadFields,
    /// Version 1: not an address of the family that was named.
    BadAddress,
    /// Version 1: not a port from 0 to 65535, without sign or leading zeros.
    BadPort,
    /// Version 2: a version other than 2.
    BadVersion(u8),
    /// Version 2: a command that does not exist.
    BadCommand(u8),
    /// Version 2: an address family or a transport that does not exist.
    BadFamily(u8),
    /// Version 2: longer than [`MAX_HEADER`], or it would become so.
    TooLarge {
        /// Its total length in bytes.
        len: usize,
    },
    /// Version 2: the addresses do not fit into the length.
    TooShort {
        /// Its total length in bytes.
        len: usize,
    },
    /// Version 2: the values after the addresses do not fill the length exactly.
    BadTlv,
    /// Version 2: the CRC32c is wrong, does not have four bytes, or is given twice.
    BadChecksum,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("no PROXY header: the peer does not begin with one"),
            Self::LineTooLong => f.write_str("bad PROXY header: no CRLF within 107 bytes"),
            Self::BadByte => f.write_str(
                "bad PROXY header: a byte that is not printable ASCII, or a CR without its LF",
            ),
            Self::BadProtocol => f.write_str("bad PROXY header: neither TCP4, TCP6 nor UNKNOWN"),
            Self::BadFields => {
                f.write_str("bad PROXY header: not two addresses and two ports, one space apart")
            }
            Self::BadAddress => {
                f.write_str("bad PROXY header: not an address of the family it names")
            }
            Self::BadPort => f.write_str("bad PROXY header: not a port from 0 to 65535"),
            Self::BadVersion(version) => {
                write!(f, "bad PROXY header: binary version {version}, but only 2 exists")
            }
            Self::BadCommand(command) => {
                write!(f, "bad PROXY header: unknown command {command}")
            }
            Self::BadFamily(family) => {
                write!(f, "bad PROXY header: unknown family and transport {family:#04x}")
            }
            Self::TooLarge { len } => {
                write!(f, "bad PROXY header: {len} bytes, which is over {MAX_HEADER}")
            }
            Self::TooShort { len } => {
                write!(f, "bad PROXY header: its addresses do not fit into its {len} bytes")
            }
            Self::BadTlv => f.write_str("bad PROXY header: its values do not fill its length"),
            Self::BadChecksum => f.write_str("bad PROXY header: its CRC32c is wrong"),
        }
    }
}

impl Error for HeaderError {}
