//! The choice of a certificate by the name that a peer asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by the names in them.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the part after the `*.`.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    /// Used if no other matches.
    default: Option<Arc<CertifiedKey>>,
}

impl Names {
    /// One certificate for all names.
    pub(super) fn only(key: CertifiedKey) -> Self {
        Self { default: Some(Arc::new(key)), ..Self::default() }
    }

    pub(super) fn set_default(&mut self, key: Arc<CertifiedKey>) {
        self.default = Some(key);
    }

    /// Adds a certificate. If a name has two certificates, the first one stays.
    pub(super) fn add(&mut self, name: &str, key: &Arc<CertifiedKey>) {
        let name = name.to_ascii_lowercase();
        let (names, name) = match name.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcards, parent.to_owned()),
            None => (&mut self.exact, name),
        };
        names.entry(name).or_insert_with(|| Arc::clone(key));
    }

    /// The certificate for a name in lower case.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent));
        self.exact.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has made it lower case, and checked that it is a DNS name.
        let found = hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase()));
        found.or(self.default.as_ref()).cloned()
    }
}
