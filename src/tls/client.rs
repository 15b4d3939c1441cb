//! The client's side of TLS: roots, name, and the client's own certificate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

use super::TlsError;
use super::files::{self, Roots};

/// The TLS configuration of a client, for [`Remote::tls`] and [`Session::upgrade_tls`]: how it
/// verifies a server, and which certificate and protocols it offers.
///
/// A server's certificate is always verified: by the roots of the system, unless [`ca`](Self::ca)
/// names others, and by the name of the remote's host, unless [`name`](Self::name) sets another. If
/// there is no host (a Unix socket, a session), a missing name is an error. TLS 1.2 and 1.3 are
/// supported, with all ciphers of the [`provider`](Self::provider).
///
/// Files are read once: by [`ClientTls::load`], or at the first handshake. Clones share the files
/// read, and the TLS sessions that servers allow them to resume.
///
/// ```
/// use ropewalk::tls::ClientTls;
/// use ropewalk::Remote;
///
/// let tls = ClientTls::new().ca("/etc/roots.pem").name("cache.example.org").alpn(["cache/1"]);
/// let remote = Remote::unix("/run/cache.sock").tls(tls);
/// let text = "tls+unix:/run/cache.sock?ca=/etc/roots.pem&name=cache.example.org&alpn=cache/1";
/// assert_eq!(remote.to_string(), text);
/// ```
///
/// [`Remote::tls`]: crate::Remote::tls
/// [`Session::upgrade_tls`]: crate::Session::upgrade_tls
#[derive(Clone, Default)]
pub struct ClientTls {
    roots: Roots,
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
    identity: Option<(PathBuf, PathBuf)>,
    provider: Option<Arc<CryptoProvider>>,
    loaded: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl ClientTls {
    /// A configuration with the roots of the system, and without a certificate of the client.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A configuration made by hand. It is used as it is, with its roots, its certificate and its
    /// protocols.
    pub fn rustls(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self { roots: Roots::Rustls(config.into()), ..Self::default() }
    }

    /// Sets the roots to those in this PEM file, and no others.
    #[must_use]
    pub fn ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = Roots::File(path.into());
        self.apart()
    }

    /// Sets the roots to those in this PEM text, and no others.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.roots = Roots::Pem(pem.as_ref().into());
        self.apart()
    }

    /// Sets the name (or IP address) that the server's certificate must have. A name is also sent
    /// to the server (SNI).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the certificate for servers that ask for one: PEM files with the chain, the client's
    /// own certificate first, and with its key. They may be the same file.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self.apart()
    }

    /// Sets the offered protocols (ALPN), the preferred one first.
    /// [`TlsInfo::alpn`](crate::connection::TlsInfo::alpn) is the one that the server chose.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self.apart()
    }

    /// Sets the cryptography. The default is that of a server:
    /// [`TlsConfig::provider`](crate::TlsConfig::provider).
    #[must_use]
    pub fn provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.provider = Some(provider.into());
        self.apart()
    }

    /// Reads the files now, if that has not been done yet. It blocks on the file system.
    ///
    /// # Errors
    ///
    /// A file that is missing or has no certificate or no key, a key that does not match, a system
    /// without roots.
    pub fn load(&self) -> Result<(), TlsError> {
        self.current().map(drop)
    }

    /// The configuration for handshakes. All handshakes of a remote use the same one, so that
    /// sessions can be resumed.
    pub(crate) fn current(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.loaded.get() {
            return Ok(Arc::clone(config));
        }
        let config = files::read_client(
            &self.roots,
            self.identity_paths(),
            &self.alpn,
            self.provider.as_ref(),
        )?;
        Ok(Arc::clone(self.loaded.get_or_init(|| config)))
    }

    /// The name by which the certificate is verified: the one set here, or else that of the host.
    pub(crate) fn server_name(&self, host: Option<&str>) -> Result<ServerName<'static>, TlsError> {
        let Some(name) = self.name.as_deref().or(host) else {
            let fix = "give it one by ClientTls::name, or name=HOST in the remote's string";
            return Err(TlsError::other(
                "there is no name to verify the server's certificate by",
                fix,
            ));
        };
        ServerName::try_from(name.to_owned()).map_err(|_| {
            TlsError::other(
                format!("{name:?} is not a name that a certificate can have"),
                "give a DNS name or an address",
            )
        })
    }

    pub(crate) fn ca_path(&self) -> Option<&Path> {
        if let Roots::File(path) = &self.roots { Some(path) } else { None }
    }

    pub(crate) fn own_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn identity_paths(&self) -> Option<(&Path, &Path)> {
        self.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()))
    }

    pub(crate) fn protocols(&self) -> &[Vec<u8>] {
        &self.alpn
    }

    /// Detaches this value from the clones with which it shares the files read.
    fn apart(mut self) -> Self {
        self.loaded = Arc::default();
        self
    }
}

impl From<ClientConfig> for ClientTls {
    fn from(config: ClientConfig) -> Self {
        Self::rustls(config)
    }
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self::rustls(config)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots: &dyn fmt::Debug = match &self.roots {
            Roots::System => &"of the system",
            Roots::File(path) => path,
            Roots::Pem(_) | Roots::Rustls(_) => &"in memory",
        };
        f.debug_struct("ClientTls")
            .field("roots", roots)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
