//! TLS by rustls (features `tls`, `ring`, `aws-lc`, `rustls`): certificates and the handshake.

mod client;
mod error;
mod files;
mod keys;
mod names;
mod provider;
mod source;
mod stream;
mod validity;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ropewalk_middleware::BoxError;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;

/// For a [`TlsConfig`] made from a `rustls::ServerConfig` of your own.
pub use rustls;

pub use self::client::ClientTls;
pub use self::error::TlsError;
pub(crate) use self::source::CertSource;
pub(crate) use self::stream::{HANDSHAKE, Side, accept, connect};

use self::files::InUse;

/// The TLS configuration of a server, for [`Endpoint::tls`] and [`Session::upgrade_tls`]: its
/// certificates, which certificates of peers it accepts, and its protocols.
///
/// TLS 1.2 and 1.3 are supported, with all ciphers of the [`provider`](Self::provider).
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
    /// The revocation lists of the authorities in `client_ca`.
    pub(crate) crl: Option<PathBuf>,
    pub(crate) tickets: bool,
    provider: Option<Arc<CryptoProvider>>,
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

    /// A configuration made by hand. It is used as it is, except for [`alpn`](Self::alpn) and
    /// [`tickets`](Self::tickets), and never reloaded: see [`made_by`](Self::made_by).
    pub fn rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        CertSource::Rustls(config.into()).into()
    }

    /// Configurations made by hand, that are reloaded: the function is called when files would be
    /// read, and again by each reload, and may block on the file system. If it fails, nothing
    /// changes, as with a file that can't be used.
    ///
    /// ```
    /// use ropewalk::TlsConfig;
    /// # fn read() -> std::io::Result<ropewalk::tls::rustls::ServerConfig> {
    /// #     Err(std::io::Error::other("an example has no files"))
    /// # }
    ///
    /// let tls = TlsConfig::made_by(|| {
    ///     let mut config = read()?;
    ///     config.max_early_data_size = 0;
    ///     Ok(config)
    /// });
    /// ```
    pub fn made_by<F>(make: F) -> Self
    where
        F: Fn() -> Result<ServerConfig, BoxError> + Send + Sync + 'static,
    {
        let fix = "it is made by the function given to TlsConfig::made_by";
        let make =
            move || make().map(Arc::new).map_err(|error| TlsError::other(error.to_string(), fix));
        CertSource::Made(Arc::new(make)).into()
    }

    /// Sets the cryptography: ciphers, key exchange, signatures. By default it is that which the
    /// process has installed (`CryptoProvider::install_default`), or else AWS-LC's if the feature
    /// `aws-lc` is on, or else ring's (features `ring` and `tls`). With the feature `rustls` alone
    /// there is no other, and a missing one is an error when the files are read. This crate
    /// installs no provider for the process.
    ///
    /// It has no effect on a configuration made by hand, which has a provider already.
    ///
    /// ```
    /// use ropewalk::TlsConfig;
    /// use ropewalk::tls::rustls::crypto::ring;
    ///
    /// let tls = TlsConfig::files("cert.pem", "key.pem").provider(ring::default_provider());
    /// ```
    #[must_use]
    pub fn provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.provider = Some(provider.into());
        self.apart()
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

    /// Refuses the certificates in these revocation lists: a PEM file with the list of each
    /// authority that signs certificates of peers, also of those between them and the authority in
    /// [`client_ca`](Self::client_ca), which has to be set. A peer whose authority has no list is
    /// refused. The file is read again by a reload. A list that is past its next update is still
    /// used: write the new one in time.
    #[must_use]
    pub fn crl(mut self, path: impl Into<PathBuf>) -> Self {
        self.crl = Some(path.into());
        self.apart()
    }

    /// Whether sessions are resumed by tickets, of TLS 1.2 as well as 1.3, which the peers keep;
    /// off by default: then this server keeps the last 256 sessions. Tickets are good for any
    /// number of peers, on this process until the next reload. Their keys change every 6 h, and
    /// until then a stolen key decrypts sessions of TLS 1.2 that were recorded.
    #[must_use]
    pub fn tickets(mut self, on: bool) -> Self {
        self.tickets = on;
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
    /// the log says so. A file that others may read or write, a link, or one that can't be opened is
    /// an error when the certificates are read. Each handshake writes to it, which may block; a
    /// write that fails is not reported.
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

    /// Whether all of its cryptography is validated by FIPS 140-3, as rustls says: see the book's
    /// chapter on TLS. Reads the files if that has not been done yet.
    ///
    /// # Errors
    ///
    /// As [`TlsConfig::load`].
    pub fn is_fips(&self) -> Result<bool, TlsError> {
        Ok(self.current()?.fips())
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

    /// The files whose certificates are in use, and when they expire; nothing until they are read.
    pub(crate) fn expiries(&self) -> Vec<(PathBuf, Duration)> {
        let current = self.loaded.current.read().unwrap_or_else(PoisonError::into_inner);
        let known = current.in_use.iter();
        known.filter_map(|(file, expiry)| Some((file.clone(), (*expiry)?))).collect()
    }

    /// Whether a reload may give another configuration.
    pub(crate) fn may_change(&self) -> bool {
        self.source.may_change() || self.client_ca.is_some()
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
            crl: None,
            tickets: false,
            provider: None,
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
    /// Two configurations are equal if their settings are; providers and configurations made by
    /// hand if they are clones of each other.
    fn eq(&self, other: &Self) -> bool {
        let providers = (self.provider.as_ref(), other.provider.as_ref());
        let same_provider = match providers {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_provider
            && (&self.source, &self.client_ca, &self.crl, &self.alpn)
                == (&other.source, &other.client_ca, &other.crl, &other.alpn)
            && (self.client_optional, self.accepts_plain, self.tickets, self.logs_keys)
                == (other.client_optional, other.accepts_plain, other.tickets, other.logs_keys)
    }
}

impl Eq for TlsConfig {}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("source", &self.source).finish_non_exhaustive()
    }
}
