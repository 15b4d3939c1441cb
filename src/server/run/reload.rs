//! What is read again while a server runs: certificates.

use std::sync::{Arc, Mutex, PoisonError};

use ropewalk_middleware::event::aside;

use crate::endpoint::Endpoint;
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;
use ropewalk_middleware::{Error, Result};

/// All that is reloaded together. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Reloads(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    #[cfg(feature = "tls")]
    tls: Vec<TlsConfig>,
}

impl Reloads {
    #[cfg(feature = "tls")]
    pub(in crate::server) fn add(&self, tls: TlsConfig) {
        if tls.has_files() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).tls.push(tls);
        }
    }

    #[cfg_attr(not(feature = "tls"), allow(clippy::unused_self))]
    pub(super) fn add_endpoint(&self, endpoint: &Endpoint) {
        #[cfg(feature = "tls")]
        endpoint.tls_config().into_iter().for_each(|tls| self.add(tls.clone()));
        #[cfg(not(feature = "tls"))]
        let _ = endpoint;
    }

    /// Whether there is nothing that could be read again.
    pub(in crate::server) fn is_empty(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.0.lock().unwrap_or_else(PoisonError::into_inner).tls.is_empty();
        #[cfg(not(feature = "tls"))]
        true
    }

    /// Reads everything again and then takes all of it; or, when one file is bad, none of it. Waits for the file system,
    /// on a thread that may.
    pub(in crate::server) async fn reload(&self) -> Result {
        let files = Arc::clone(&self.0);
        // Locked all the while: of two at once, the second is the one that stays.
        let reading =
            tokio::task::spawn_blocking(move || files.lock().unwrap_or_else(PoisonError::into_inner).reload());
        let result = reading.await.map_err(Error::from).and_then(|result| result);
        match &result {
            Ok(()) => aside!(INFO, "reloaded"),
            Err(error) => {
                let error = error.to_string();
                aside!(ERROR, %error, "nothing was reloaded: what was there before stays");
            }
        }
        result
    }
}

impl Files {
    fn reload(&self) -> Result {
        #[cfg(feature = "tls")]
        {
            let read: Result<Vec<_>, _> = self.tls.iter().map(TlsConfig::read).collect();
            self.tls.iter().zip(read?).for_each(|(tls, config)| tls.set(config));
        }
        Ok(())
    }
}
