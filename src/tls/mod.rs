//! TLS by rustls (feature `tls`): certificates and the handshake.

mod client;
mod error;
mod files;
mod names;
mod stream;
mod validity;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;

/// For a [`TlsConfig`] made from a `rustls::ServerConfig` of your own.
pub use rustls;

pub use self::client::ClientTls;
pub use self::error::TlsError;
pub(crate) use self::stream::{HANDSHAKE, Side, accept, connect};

use self::files::InUse;

/// The TLS configuration of a server, for [`Endpoint::tls`] and [`Session::upgrade_tls`]: its
/// certificates, which certificates of peers it accepts, and its protocols.
///
/// TLS 1.2 and 1.3 are supported, with rustls's default ciphers and the `ring` provider; no
/// process-wide provider is installed.
///
/// A close sends `close_notify`. If the peer's stream ends without one, an attacker may have cut
/// it: after the bytes before the end, reading fails with `UnexpectedEof`.
///
/// A certificate that has expired or is not valid yet is used all the same, and clients refuse it;
/// whenever one is read, a warning in the log names its file and the date.
///
/// Files are read when the server binds, when [`TlsConfig::load`] is called, or at the first
/// handshake, whichever is first. Clones share the files read, so a reload affects all of them;
/// existing connections are not affected.
///
/// ```no_run
/// use ropewalk::{Endpoint, TlsConfig};
///
/// let tls = TlsConfig::files("/etc/echo/cert.pem", "/etc/echo/key.pem").alpn(["echo/1"]);
/// let endpoint = Endpoint::tcp(([0, 0, 0, 0], 8443).into()).tls(tls);
/// assert_eq!(endpoint.to_string(), "tls:8443?cert=/etc/echo/cert.pem&key=/etc/echo/key.pem&alpn=echo/1");
/// ```
///
/// [`Endpoint::tls`]: crate::Endpoint::tls
/// [`Session::upgrade_tls`]: crate::Session::upgrade_tls
#[derive(Clone)]
pub struct TlsConfig {
    pub(crate) source: CertSource,
    pub(crate) client_ca: Option<PathBuf>,
    /// A peer need not have a certificate.
    pub(crate) client_optional: bool,
    /// A connection may also begin with plain text.
    pub(crate) accepts_plain: bool,
    logs_keys: bool,
    pub(crate) alpn: Vec<Vec<u8>>,
    loaded: Arc<Loaded>,
}

/// The current configuration, and the number of the reading that produced it: of several at once
/// the one that began last stays.
#[derive(Default)]
struct Loaded {
    begun: AtomicU64,
    current: RwLock<Current>,
}

#[derive(Default)]
struct Current {
    number: u64,
    config: Option<Arc<ServerConfig>>,
    in_use: InUse,
}

/// A configuration that was read, but is not in use yet.
pub(crate) struct Reading {
    number: u64,
    config: Arc<ServerConfig>,
    in_use: InUse,
}

/// The source of the certificates.
#[derive(Clone)]
pub(crate) enum CertSource {
    /// A chain and its key.
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
    /// A folder of certificates.
    Folder(PathBuf),
    /// A chain and its key, in PEM.
    Pem {
        cert: Arc<[u8]>,
        key: Arc<[u8]>,
    },
    Rustls(Arc<ServerConfig>),
}

impl TlsConfig {
    /// One certificate for all names: a PEM file with the chain, the server's own certificate
    /// first, and one with its key (PKCS #8, PKCS #1 or SEC 1). They may be the same file.
    pub fn files(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        CertSource::Files { cert: cert.into(), key: key.into() }.into()
    }

    /// The certificates of a folder, chosen by the name a peer asks for (SNI): `NAME.pem` with
    /// chain and key in one file, `NAME.crt` with `NAME.key`, and folders `NAME/` with
    /// `fullchain.pem` and `privkey.pem`; the folder itself may contain these two. Other files are
    /// skipped: hidden ones silently, and those that are named like a certificate but can't be used
    /// (`ca.crt` without a key, `dhparam.pem`, a partly written file) with a warning in the log. So
    /// a stray file doesn't prevent a server from starting. A reload fails, and changes nothing, if
    /// a file whose certificate is in use can't be used any more; the certificate of a removed file
    /// is dropped.
    ///
    /// A certificate is used for the DNS names in it (`subjectAltName`), independent of its file
    /// name; one for `*.example.org` is used for every name with one label more than `example.org`,
    /// unless another certificate has exactly that name. The one named `default` is used if no
    /// other matches, and for a peer that asks for no name. Without it such a peer is refused.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        CertSource::Folder(path.into()).into()
    }

    /// The same as [`TlsConfig::files`], with the contents of such files. It is never reloaded.
    pub fn pem(cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        CertSource::Pem { cert: cert.as_ref().into(), key: key.as_ref().into() }.into()
    }

    /// A configuration made by hand. It is used as it is, except for [`alpn`](Self::alpn), and
    /// never reloaded.
    pub fn rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        CertSource::Rustls(config.into()).into()
    }

    /// Requires a certificate of every peer, signed by one in this PEM file (mutual TLS); without
    /// it the handshake fails. [`Peer::certificates`](crate::Peer::certificates) returns it. It
    /// does not go with a configuration made by hand.
    #[must_use]
    pub fn client_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(path.into());
        self.client_optional = false;
        self.apart()
    }

    /// The same for peers that have a certificate; others may connect without one, and
    /// [`Peer::certificates`](crate::Peer::certificates) is empty then. A certificate that is not
    /// signed by one in the file still fails the handshake.
    #[must_use]
    pub fn optional_client_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(path.into());
        self.client_optional = true;
        self.apart()
    }

    /// Whether connections may also begin with plain text, on the same port; off by default. The
    /// first byte decides: a TLS handshake begins with 0x16.
    /// [`Connection::tls`](crate::Connection::tls) says what a connection has, and the service has
    /// to check it before it does anything that needs encryption.
    ///
    /// The byte is awaited within the time of a handshake, 10 s, under the limits of preambles. So
    /// it doesn't go with protocols in which the server speaks first, nor with one whose first byte
    /// may be 0x16. A plain connection costs a box more than on an endpoint of its own.
    #[must_use]
    pub fn accept_plain(mut self, on: bool) -> Self {
        self.accepts_plain = on;
        self
    }

    /// Sets the supported protocols (ALPN), the preferred one first. A peer that offers only others
    /// is refused (`no_application_protocol`); one that offers no protocols is not. By default the
    /// protocols that a peer offers are ignored.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self.apart()
    }

    /// Whether the keys of all connections are written to the file that the environment variable
    /// `SSLKEYLOGFILE` names, for Wireshark to decrypt what was captured on the network; off by
    /// default, and without the variable nothing is written. A reader of the file can read the
    /// connections: it is made for its owner only (mode 600), and while it is written, a warning in
    /// the log says so. Each handshake writes to it, which may block.
    ///
    /// A [`TapLayer`](crate::layer::TapLayer) needs no keys: it records the plaintext.
    #[must_use]
    pub fn log_keys(mut self, on: bool) -> Self {
        self.logs_keys = on;
        self.apart()
    }

    /// Reads the files now, if that has not been done yet. It blocks on the file system.
    ///
    /// # Errors
    ///
    /// A file that is missing or has no certificate or no key, a key that does not match, a folder
    /// without any usable certificate.
    pub fn load(&self) -> Result<(), TlsError> {
        self.current().map(drop)
    }

    /// Reads the files again. It blocks on the file system. If there is an error, nothing changes.
    /// Of several reloads at once the one that began last stays.
    ///
    /// [`Handle::reload`](crate::Handle::reload) does this for all endpoints of a server; call this
    /// for a configuration that only [`Session::upgrade_tls`](crate::Session::upgrade_tls) uses.
    ///
    /// # Errors
    ///
    /// As [`TlsConfig::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        self.set(self.read()?);
        Ok(())
    }

    /// Reads the files without using them yet.
    pub(crate) fn read(&self) -> Result<Reading, TlsError> {
        let number = self.loaded.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let in_use =
            self.loaded.current.read().unwrap_or_else(PoisonError::into_inner).in_use.clone();
        let (config, in_use) = files::read(self, &in_use)?;
        Ok(Reading { number, config, in_use })
    }

    /// Uses this configuration for handshakes from here on, unless a later reading is in use
    /// already.
    pub(crate) fn set(&self, Reading { number, config, in_use }: Reading) {
        let mut current = self.loaded.current.write().unwrap_or_else(PoisonError::into_inner);
        if number > current.number {
            *current = Current { number, config: Some(config), in_use };
        }
    }

    /// The current configuration for handshakes.
    pub(crate) fn current(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let current =
            || self.loaded.current.read().unwrap_or_else(PoisonError::into_inner).config.clone();
        if let Some(config) = current() {
            return Ok(config);
        }
        let reading = self.read()?;
        let config = Arc::clone(&reading.config);
        self.set(reading);
        // If a reload has set one meanwhile, that is newer.
        Ok(current().unwrap_or(config))
    }

    /// Whether there are files that may have changed.
    pub(crate) fn has_files(&self) -> bool {
        self.source.path().is_some() || self.client_ca.is_some()
    }

    /// Detaches this value from the clones with which it shares the files read.
    fn apart(mut self) -> Self {
        self.loaded = Arc::default();
        self
    }
}

impl From<CertSource> for TlsConfig {
    fn from(source: CertSource) -> Self {
        Self {
            source,
            client_ca: None,
            client_optional: false,
            accepts_plain: false,
            logs_keys: false,
            alpn: Vec::new(),
            loaded: Arc::default(),
        }
    }
}

impl From<ServerConfig> for TlsConfig {
    fn from(config: ServerConfig) -> Self {
        Self::rustls(config)
    }
}

impl From<Arc<ServerConfig>> for TlsConfig {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::rustls(config)
    }
}

impl PartialEq for TlsConfig {
    /// Two configurations are equal if their settings are; those made by hand if they are clones of
    /// each other.
    fn eq(&self, other: &Self) -> bool {
        (&self.source, &self.client_ca, &self.alpn)
            == (&other.source, &other.client_ca, &other.alpn)
            && (self.client_optional, self.accepts_plain, self.logs_keys)
                == (other.client_optional, other.accepts_plain, other.logs_keys)
    }
}

impl Eq for TlsConfig {}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("source", &self.source).finish_non_exhaustive()
    }
}

impl CertSource {
    /// The file or folder of the server's certificates.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Files { cert, .. } => Some(cert),
            Self::Folder(path) => Some(path),
            Self::Pem { .. } | Self::Rustls(_) => None,
        }
    }
}

impl PartialEq for CertSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Files { cert, key }, Self::Files { cert: c, key: k }) => (cert, key) == (c, k),
            (Self::Folder(path), Self::Folder(other)) => path == other,
            (Self::Pem { cert, key }, Self::Pem { cert: c, key: k }) => (cert, key) == (c, k),
            (Self::Rustls(config), Self::Rustls(other)) => Arc::ptr_eq(config, other),
            _ => false,
        }
    }
}

impl fmt::Debug for CertSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => path.fmt(f),
            // The contents are not printed, because they include a key.
            None => f.write_str("(in memory)"),
        }
    }
}
