//! Where the certificates of a server come from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

use super::TlsError;

/// Makes a complete configuration.
pub(super) type MakeConfig = Arc<dyn Fn() -> Result<Arc<ServerConfig>, TlsError> + Send + Sync>;

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
    /// A configuration made by hand, and again at each reload.
    Made(MakeConfig),
}

impl CertSource {
    /// Whether reading it again may give another configuration.
    pub(super) fn may_change(&self) -> bool {
        match self {
            Self::Files { .. } | Self::Folder(_) | Self::Made(_) => true,
            Self::Pem { .. } | Self::Rustls(_) => false,
        }
    }

    /// The file or folder of the server's certificates.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Files { cert, .. } => Some(cert),
            Self::Folder(path) => Some(path),
            Self::Pem { .. } | Self::Rustls(_) | Self::Made(_) => None,
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
            (Self::Made(make), Self::Made(other)) => Arc::ptr_eq(make, other),
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
