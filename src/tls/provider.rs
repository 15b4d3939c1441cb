//! The cryptography below TLS.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;

use super::TlsError;

/// The provider that a configuration names, or that of the process, or one that is compiled in.
pub(super) fn provider(
    named: Option<&Arc<CryptoProvider>>,
) -> Result<Arc<CryptoProvider>, TlsError> {
    if let Some(provider) = named.into_iter().chain(CryptoProvider::get_default()).next() {
        return Ok(Arc::clone(provider));
    }
    compiled_in().map(Arc::new).ok_or_else(|| {
        TlsError::other(
            "there is no cryptography",
            "turn on ropewalk's feature ring or aws-lc, or give a CryptoProvider (TlsConfig::provider)",
        )
    })
}

#[cfg(feature = "aws-lc")]
fn compiled_in() -> Option<CryptoProvider> {
    Some(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
fn compiled_in() -> Option<CryptoProvider> {
    Some(rustls::crypto::ring::default_provider())
}

#[cfg(not(any(feature = "ring", feature = "aws-lc")))]
fn compiled_in() -> Option<CryptoProvider> {
    None
}

/// Keys for session tickets, which change every 6 h. A provider has no way to make them, so they
/// are of one that is compiled in.
pub(super) fn ticketer() -> Result<Arc<dyn ProducesTickets>, TlsError> {
    #[cfg(feature = "aws-lc")]
    let made = rustls::crypto::aws_lc_rs::Ticketer::new();
    #[cfg(all(feature = "ring", not(feature = "aws-lc")))]
    let made = rustls::crypto::ring::Ticketer::new();
    #[cfg(not(any(feature = "ring", feature = "aws-lc")))]
    let made =
        Err(rustls::Error::General("there is no cryptography for session tickets".to_owned()));
    made.map_err(|error| {
        TlsError::other(
            error.to_string(),
            "tickets need ropewalk's feature ring or aws-lc, or a configuration made by hand",
        )
    })
}
