//! TLS by rustls (feature `tls`): which certificates, and the handshake.

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

pub use self::client::ClientTls;
pub use self::error::TlsError;
pub(crate) use self::stream::{HANDSHAKE, Side, accept, connect};

use self::files::InUse;

/// Which certificates a server shows, whose it asks for, and which protocols it speaks: for [`Endpoint::tls`] and
/// [`Session::upgrade_tls`].
///
/// TLS 1.2 and 1.3 are spoken, with rustls's own choice of ciphers, by the `ring` provider; nothing is installed for the
/// process as a whole.
///
/// A close says goodbye (`close_notify`). A peer that ends without it may have been cut off by somebody else: reading fails
/// with `UnexpectedEof` then, behind whatever came before.
///
/// A certificate that has expired or is not valid yet is served, for clients to refuse; whenever one is read a warning in
/// the log names its file and the date.
///
/// Files are read when the server binds, when [`TlsConfig::load`] is called, or at the first handshake; whichever comes
/// first. Clones share what was read, so a reload reaches all of them; connections made before keep what they have.
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
    pub(crate) source: Source,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) alpn: Vec<Vec<u8>>,
    loaded: Arc<Loaded>,
}

/// What was read, and by which reading: of two at once the one that began last is the one that stays.
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

/// A configuration that was read, and is not in force yet.
pub(crate) struct Reading {
    number: u64,
    config: Arc<ServerConfig>,
    in_use: InUse,
}

/// Where the certificates come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// A chain and its key.
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
    /// A folder of them.
    Folder(PathBuf),
    /// A chain and its key, in PEM.
    Pem {
        cert: Arc<[u8]>,
        key: Arc<[u8]>,
    },
    Rustls(Arc<ServerConfig>),
}

impl TlsConfig {
    /// One certificate, for whatever name a peer asks: a PEM file with the chain, the server's own certificate first, and
    /// one with its key (PKCS #8, PKCS #1 or SEC 1). They may be the same file.
    pub fn files(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Source::Files { cert: cert.into(), key: key.into() }.into()
    }

    /// The certificates of a folder, chosen by the name a peer asks for (SNI). Those are `NAME.pem` with chain and key in
    /// one file, `NAME.crt` with `NAME.key`, and folders `NAME/` with `fullchain.pem` and `privkey.pem`; the folder itself may
    /// hold these two. Other files are passed over: hidden ones in silence, and those that are called like a certificate and
    /// can't be used (`ca.crt` without a key, `dhparam.pem`, a half-written file) with a warning in the log. So a stray file
    /// keeps no server from starting. A reload fails, and changes nothing, when a file whose certificate is in use can't
    /// be used any more; one that was removed takes its certificate with it.
    ///
    /// A certificate answers to the DNS names in it (`subjectAltName`), whatever its file is called; `*.example.org` to
    /// every name with one label more than `example.org`, unless another certificate has just that name. The one called
    /// `default` answers when no other does, and when a peer asks for no name. Without it such a peer is refused.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Source::Folder(path.into()).into()
    }

    /// The same as [`TlsConfig::files`], with what such files hold. It is never reloaded.
    pub fn pem(cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Source::Pem { cert: cert.as_ref().into(), key: key.as_ref().into() }.into()
    }

    /// A configuration made by hand. It is taken as it is, so it is never reloaded.
    pub fn rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Source::Rustls(config.into()).into()
    }

    /// Asks every peer for a certificate that one in this PEM file has signed (mutual TLS); without it the handshake
    /// fails. [`Peer::certificates`](crate::Peer::certificates) has it then. For certificates from files only.
    #[must_use]
    pub fn client_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(path.into());
        self.apart()
    }

    /// The protocols spoken (ALPN), the best first. A peer that offers others only is refused
    /// (`no_application_protocol`); one that offers none is not. Without this, what a peer offers is ignored.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self.apart()
    }

    /// Reads the files now, if that has not been done yet. It waits for the file system.
    ///
    /// # Errors
    ///
    /// A file that is missing or holds no certificate or no key, a key that does not match, a folder without any certificate
    /// that can be used.
    pub fn load(&self) -> Result<(), TlsError> {
        self.current().map(drop)
    }

    /// Reads the files again. It waits for the file system. If anything is wrong with them, nothing changes. Of several at
    /// once the one that began last stays.
    ///
    /// A [`Handle::reload`](crate::Handle::reload) does so for all endpoints of a server; this is for a configuration that
    /// only [`Session::upgrade_tls`](crate::Session::upgrade_tls) uses.
    ///
    /// # Errors
    ///
    /// As [`TlsConfig::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        self.set(self.read()?);
        Ok(())
    }

    /// Reads the files, and changes nothing yet.
    pub(crate) fn read(&self) -> Result<Reading, TlsError> {
        let number = self.loaded.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let in_use = self.loaded.current.read().unwrap_or_else(PoisonError::into_inner).in_use.clone();
        let (config, in_use) = files::read(self, &in_use)?;
        Ok(Reading { number, config, in_use })
    }

    /// From here on handshakes are done with this, unless a later reading is there already.
    pub(crate) fn set(&self, Reading { number, config, in_use }: Reading) {
        let mut current = self.loaded.current.write().unwrap_or_else(PoisonError::into_inner);
        if number > current.number {
            *current = Current { number, config: Some(config), in_use };
        }
    }

    /// What handshakes are done with now.
    pub(crate) fn current(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let current = || self.loaded.current.read().unwrap_or_else(PoisonError::into_inner).config.clone();
        if let Some(config) = current() {
            return Ok(config);
        }
        let reading = self.read()?;
        let config = Arc::clone(&reading.config);
        self.set(reading);
        // What a reload has read meanwhile is newer.
        Ok(current().unwrap_or(config))
    }

    /// Whether there are files that may have changed.
    pub(crate) fn has_files(&self) -> bool {
        self.source.path().is_some() || self.client_ca.is_some()
    }

    /// What was read before is not this one's any more.
    fn apart(mut self) -> Self {
        self.loaded = Arc::default();
        self
    }
}

impl From<Source> for TlsConfig {
    fn from(source: Source) -> Self {
        Self { source, client_ca: None, alpn: Vec::new(), loaded: Arc::default() }
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
    /// Equal are those that say the same; of those made by hand, the clones of one another.
    fn eq(&self, other: &Self) -> bool {
        (&self.source, &self.client_ca, &self.alpn) == (&other.source, &other.client_ca, &other.alpn)
    }
}

impl Eq for TlsConfig {}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Source {
    /// The file or folder of the server's certificates.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Files { cert, .. } => Some(cert),
            Self::Folder(path) => Some(path),
            Self::Pem { .. } | Self::Rustls(_) => None,
        }
    }
}

impl PartialEq for Source {
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

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => path.fmt(f),
            // Not what it is made of: there is a key in it.
            None => f.write_str("(in memory)"),
        }
    }
}
