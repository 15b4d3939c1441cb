//! The result of a TLS handshake.

use std::fmt;
use std::sync::Arc;

/// A version of TLS. Older ones are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// The result of a TLS handshake: see [`Peer::tls`](super::Peer::tls). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsInfo(Arc<Settled>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Settled {
    version: TlsVersion,
    server_name: Option<Box<str>>,
    alpn: Option<Box<[u8]>>,
    certificates: Vec<Vec<u8>>,
}

impl TlsInfo {
    /// A result with only the version. The code that does the handshake calls it, and the methods
    /// that add the rest.
    pub fn new(version: TlsVersion) -> Self {
        Self(Arc::new(Settled { version, server_name: None, alpn: None, certificates: Vec::new() }))
    }

    /// The same, with the name the peer asked for.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<Box<str>>) -> Self {
        self.set(|settled| settled.server_name = Some(name.into()))
    }

    /// The same, with the protocol both sides chose.
    #[must_use]
    pub fn with_alpn(self, protocol: impl Into<Box<[u8]>>) -> Self {
        self.set(|settled| settled.alpn = Some(protocol.into()))
    }

    /// The same, with the peer's certificates.
    #[must_use]
    pub fn with_certificates(self, chain: Vec<Vec<u8>>) -> Self {
        self.set(|settled| settled.certificates = chain)
    }

    fn set(mut self, f: impl FnOnce(&mut Settled)) -> Self {
        f(Arc::make_mut(&mut self.0));
        self
    }

    /// The version of the protocol.
    pub fn version(&self) -> TlsVersion {
        self.0.version
    }

    /// The host name the peer asked for (SNI, RFC 6066), in lower case. It is not verified.
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The protocol both sides chose (ALPN, RFC 7301), if either offered any: `b"h2"`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// The peer's certificates in DER, its own first, as they were verified; empty unless the
    /// server asks for one.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.0.certificates
    }
}
