//! The values after the addresses of a version 2 header: type, length, value.

use std::fmt;

use super::HeaderError;

/// Type and length.
const HEAD: usize = 3;

/// A value of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Its type, one of the constants here or any other.
    pub kind: u8,
    /// The value, as the proxy sent it.
    pub value: &'a [u8],
}

impl Tlv<'_> {
    /// The application protocol (ALPN) the client and the proxy agreed on.
    pub const ALPN: u8 = 0x01;
    /// The host name the client asked for, by TLS (SNI), in UTF-8.
    pub const AUTHORITY: u8 = 0x02;
    /// The CRC32c of the header. It was checked, and is written by
    /// [`Header::with_checksum`](super::Header::with_checksum).
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// The proxy's name for the connection, at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// The TLS between the client and the proxy: see [`Header::ssl`](super::Header::ssl).
    pub const SSL: u8 = 0x20;
    /// In [`Ssl`]: the version of TLS, such as `TLSv1.3`.
    pub const SSL_VERSION: u8 = 0x21;
    /// In [`Ssl`]: the common name of the client's certificate, in UTF-8.
    pub const SSL_CN: u8 = 0x22;
    /// In [`Ssl`]: the cipher suite.
    pub const SSL_CIPHER: u8 = 0x23;
    /// In [`Ssl`]: the algorithm that signed the proxy's certificate.
    pub const SSL_SIG_ALG: u8 = 0x24;
    /// In [`Ssl`]: the algorithm of the key of the proxy's certificate.
    pub const SSL_KEY_ALG: u8 = 0x25;
    /// The network namespace the client came from.
    pub const NETNS: u8 = 0x30;
}

impl fmt::Debug for Tlv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As escaped ASCII, because most values are texts.
        write!(f, "Tlv({:#04x}: {:?})", self.kind, crate::Escaped::new(self.value))
    }
}

/// An iterator over the values of a header, in order.
#[derive(Clone)]
pub struct Tlvs<'a> {
    left: &'a [u8],
}

impl<'a> Tlvs<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    /// The next value; `None` also if the rest is not a value.
    fn next(&mut self) -> Option<Tlv<'a>> {
        let (&[kind, high, low], rest) = self.left.split_first_chunk()?;
        let (value, left) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.left = left;
        Some(Tlv { kind, value })
    }
}

impl fmt::Debug for Tlvs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The TLS between the client and the proxy ([`Tlv::SSL`]).
#[derive(Clone)]
pub struct Ssl<'a> {
    client: u8,
    verify: u32,
    tlvs: Tlvs<'a>,
}

impl<'a> Ssl<'a> {
    /// `None` if the value is not well-formed.
    pub(super) fn new(value: &'a [u8]) -> Option<Self> {
        let (&[client, a, b, c, d], tlvs) = value.split_first_chunk()?;
        is_whole(tlvs).then(|| Self {
            client,
            verify: u32::from_be_bytes([a, b, c, d]),
            tlvs: Tlvs::new(tlvs),
        })
    }

    /// Whether the client used TLS with the proxy.
    pub fn is_tls(&self) -> bool {
        self.client & 1 != 0
    }

    /// Whether the client presented a certificate, on this connection or earlier in its TLS
    /// session.
    pub fn has_certificate(&self) -> bool {
        self.client & 6 != 0
    }

    /// Whether the client presented a certificate and the proxy has verified it.
    pub fn is_verified(&self) -> bool {
        self.has_certificate() && self.verify == 0
    }

    /// The details: [`Tlv::SSL_VERSION`], [`Tlv::SSL_CN`] and so on.
    pub fn tlvs(&self) -> Tlvs<'a> {
        self.tlvs.clone()
    }

    /// The first detail of a type, such as [`Tlv::SSL_VERSION`].
    pub fn tlv(&self, kind: u8) -> Option<&'a [u8]> {
        self.tlvs().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }
}

impl fmt::Debug for Ssl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssl")
            .field("client", &self.client)
            .field("verify", &self.verify)
            .field("tlvs", &self.tlvs)
            .finish()
    }
}

/// The values with one appended.
pub(super) fn push(tlvs: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    // A length too large for the field exceeds that of a header, which the caller refuses.
    let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    [tlvs, &[kind, high, low], value].concat()
}

/// Whether the bytes are a sequence of complete values.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let mut tlvs = Tlvs::new(bytes);
    while tlvs.next().is_some() {}
    tlvs.left.is_empty()
}

/// Checks that the values are well-formed. Returns the position of the checksum among them.
pub(super) fn check(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    if !is_whole(bytes) {
        return Err(HeaderError::BadTlv);
    }
    let mut at = 0;
    let mut checksum = None;
    for tlv in Tlvs::new(bytes) {
        at += HEAD;
        if tlv.kind == Tlv::CRC32C {
            if tlv.value.len() != 4 || checksum.is_some() {
                return Err(HeaderError::BadChecksum);
            }
            checksum = Some(at);
        }
        at += tlv.value.len();
    }
    Ok(checksum)
}
