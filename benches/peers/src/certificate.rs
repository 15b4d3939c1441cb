//! A certificate for the loopback device, made anew for each run: the servers show it, and the load
//! generator trusts it alone.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Result;

/// The files of a certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// A server's certificate, PEM
    pub cert: PathBuf,
    /// The key to it, PEM
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in this folder: ECDSA on P-256, as most are today.
    pub fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let this = Self { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        fs::write(&this.cert, made.cert.pem())?;
        fs::write(&this.key, made.signing_key.serialize_pem())?;
        Ok(this)
    }

    /// The chain and the key, as rustls takes them.
    pub fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_file_iter(&self.cert)?.collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_file(&self.key)?))
    }
}
