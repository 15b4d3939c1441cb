//! Reading certificates.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::event::{aside, event};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error as RustlsError, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;

use super::keys::KeyFile;
use super::names::Names;
use super::provider::{provider, ticketer};
use super::{CertSource, TlsConfig, TlsError, validity};

const NO_CERTIFICATE: &str = "it must hold the chain in PEM, the server's own certificate first";
const NO_KEY: &str = "it must hold the private key in PEM, unencrypted";
const NO_LIST: &str = "it must hold the revocation lists in PEM";
const LAYOUT: &str = "it must have NAME.pem (chain and key), NAME.crt with NAME.key, or NAME/ with fullchain.pem and \
                      privkey.pem";

/// The files whose certificates are in use, and when each expires, as a time since 1970.
pub(super) type InUse = BTreeMap<PathBuf, Option<Duration>>;

/// Reads all files that the configuration names. A file of a folder that can't be used is skipped,
/// unless its certificate is in use: then reading fails, and nothing changes.
pub(super) fn read(
    tls: &TlsConfig,
    in_use: &InUse,
) -> Result<(Arc<ServerConfig>, InUse), TlsError> {
    let mut used = InUse::default();
    let by_hand = match &tls.source {
        CertSource::Rustls(config) => Some(Arc::clone(config)),
        CertSource::Made(make) => Some(make()?),
        _ => None,
    };
    if let Some(config) = by_hand {
        return Ok((adjusted(config, tls)?, used));
    }
    let provider = provider(tls.provider.as_ref())?;
    let names = match &tls.source {
        CertSource::Files { cert, key } => {
            let certified = certificate(cert, key, &provider)?;
            used.insert(cert.clone(), validity::expiry(&certified.cert));
            Names::only(certified)
        }
        CertSource::Folder(path) => folder(path, &provider, in_use, &mut used)?,
        CertSource::Pem { cert, key } => {
            let at_cert = (Path::new("the certificate"), &cert[..]);
            let at_key = (Path::new("the key"), &key[..]);
            Names::only(certified(at_cert, at_key, &provider).map_err(TlsError::in_memory)?)
        }
        // Returned above.
        CertSource::Rustls(_) | CertSource::Made(_) => Names::default(),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::other(error.to_string(), "the crypto provider is at fault"))?;
    let builder = match verifier(tls, provider)? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(Arc::new(names));
    config.alpn_protocols.clone_from(&tls.alpn);
    if tls.tickets {
        config.ticketer = ticketer()?;
    }
    log_keys(&mut config, tls)?;
    Ok((Arc::new(config), used))
}

/// Verifies the certificates of peers, if they are asked for one.
fn verifier(
    tls: &TlsConfig,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &tls.client_ca else {
        return match &tls.crl {
            None => Ok(None),
            Some(crl) => {
                let problem = "there is no CA to these revocation lists";
                Err(TlsError::new(crl, problem, "give the CA of the peers as well (client-ca)"))
            }
        };
    };
    let roots = Arc::new(roots_in(path)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    if let Some(path) = &tls.crl {
        builder = builder.with_crls(revocations(path)?);
    }
    if tls.client_optional {
        builder = builder.allow_unauthenticated();
    }
    let built = builder.build().map_err(|error| match (&error, &tls.crl) {
        (VerifierBuilderError::InvalidCrl(_), Some(crl)) => {
            TlsError::new(crl, error.to_string(), NO_LIST)
        }
        _ => TlsError::new(path, error.to_string(), "give the CA of the peers"),
    });
    Ok(Some(built?))
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let pem = open(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
    let lists = lists.map_err(|error| TlsError::new(path, error.to_string(), NO_LIST))?;
    if lists.is_empty() {
        return Err(TlsError::new(path, "there is no revocation list in it", NO_LIST));
    }
    Ok(lists)
}

/// A configuration made by hand, with the settings that go with one.
fn adjusted(config: Arc<ServerConfig>, tls: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    if tls.client_ca.is_some() || tls.crl.is_some() {
        let problem = "a client CA does not go with a configuration made by hand";
        return Err(TlsError::other(
            problem,
            "give that one its own verifier of client certificates",
        ));
    }
    if tls.alpn.is_empty() && !tls.tickets && !tls.logs_keys {
        return Ok(config);
    }
    let mut config = Arc::unwrap_or_clone(config);
    if !tls.alpn.is_empty() {
        config.alpn_protocols.clone_from(&tls.alpn);
    }
    if tls.tickets {
        config.ticketer = ticketer()?;
    }
    log_keys(&mut config, tls)?;
    Ok(Arc::new(config))
}

/// Has the keys of connections written, if that was asked for and a file is named.
fn log_keys(config: &mut ServerConfig, tls: &TlsConfig) -> Result<(), TlsError> {
    if tls.logs_keys
        && let Some(file) = env::var_os("SSLKEYLOGFILE")
    {
        config.key_log = Arc::new(KeyFile::open(Path::new(&file))?);
        let file = file.display().to_string();
        aside!(WARN, %file, "the keys of TLS connections are written to a file");
    }
    Ok(())
}

/// A chain and its key.
fn certificate(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    certified((cert, &open(cert)?), (key, &open(key)?), provider)
}

/// The same from the contents of the files. The two must match.
fn certified(
    (cert, chain_pem): (&Path, &[u8]),
    (key, key_pem): (&Path, &[u8]),
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = chain(cert, chain_pem)?;
    validity::warn_of(cert, &chain);
    let private = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::new(key, "there is no private key in it", NO_KEY),
        error => TlsError::new(key, error.to_string(), NO_KEY),
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let problem = format!("it is not the key of the certificate in {cert:?}");
            TlsError::new(key, problem, "give the key that belongs to the certificate")
        }
        RustlsError::InvalidCertificate(error) => {
            TlsError::new(cert, error.to_string(), NO_CERTIFICATE)
        }
        error => TlsError::new(key, error.to_string(), NO_KEY),
    })
}

fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| TlsError::new(path, error.to_string(), NO_CERTIFICATE))?;
    if chain.is_empty() {
        return Err(TlsError::new(path, "there is no certificate in it", NO_CERTIFICATE));
    }
    Ok(chain)
}

/// The authorities by which servers' certificates are verified.
#[derive(Clone, Default)]
pub(super) enum Roots {
    /// The roots of the system.
    #[default]
    System,
    File(PathBuf),
    Pem(Arc<[u8]>),
    /// A complete configuration.
    Rustls(Arc<ClientConfig>),
}

/// Reads all files that a client's configuration names: its roots, and its certificate and key.
/// Sets its protocols.
pub(super) fn read_client(
    roots: &Roots,
    identity: Option<(&Path, &Path)>,
    protocols: &[Vec<u8>],
    named: Option<&Arc<CryptoProvider>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    if let Roots::Rustls(config) = roots {
        return Ok(Arc::clone(config));
    }
    let provider = provider(named)?;
    let fault =
        |error: RustlsError| TlsError::other(error.to_string(), "name the roots yourself, by ca");
    let builder = || {
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
    };
    let builder = match roots {
        // Returned above.
        Roots::Rustls(config) => return Ok(Arc::clone(config)),
        Roots::System => {
            builder().and_then(|builder| builder.with_platform_verifier()).map_err(fault)?
        }
        Roots::File(path) => builder().map_err(fault)?.with_root_certificates(roots_in(path)?),
        Roots::Pem(pem) => {
            let roots = roots_of(Path::new("the roots"), pem).map_err(TlsError::in_memory)?;
            builder().map_err(fault)?.with_root_certificates(roots)
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let certified = Arc::new(certificate(cert, key, &provider)?);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols = protocols.to_vec();
    Ok(Arc::new(config))
}

/// The authorities by which peers' certificates are verified.
fn roots_in(path: &Path) -> Result<RootCertStore, TlsError> {
    roots_of(path, &open(path)?)
}

fn roots_of(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path, pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| {
            TlsError::new(path, error.to_string(), "give the CA of the peers, in PEM")
        })?;
    }
    Ok(roots)
}

fn open(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::unreadable(path, &error))
}

/// All certificates of a folder. It may contain other files too: the CA's own certificate,
/// parameters, a partly written file.
fn folder(
    path: &Path,
    provider: &CryptoProvider,
    in_use: &InUse,
    used: &mut InUse,
) -> Result<Names, TlsError> {
    let unreadable = |error: io::Error| TlsError::unreadable(path, &error);
    let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(unreadable)?.collect();
    let mut entries: Vec<PathBuf> =
        entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
    // Sorted, so that the same certificate always comes first for a name.
    entries.sort();
    let mut names = Names::default();
    let mut first_error = None;
    for (cert, key) in entries.iter().filter_map(|entry| pair(entry)) {
        match add(&mut names, path, (&cert, &key), provider) {
            Ok(expiry) => drop(used.insert(cert, expiry)),
            Err(error) if in_use.contains_key(&cert) => return Err(error),
            Err(error) => {
                let file = cert.display();
                event!(WARN, %file, %error, "a file in the folder of certificates is skipped");
                first_error.get_or_insert(error);
            }
        }
    }
    if used.is_empty() {
        return Err(first_error
            .unwrap_or_else(|| TlsError::new(path, "there is no certificate in it", LAYOUT)));
    }
    Ok(names)
}

/// Adds one certificate of a folder. Returns when it expires.
fn add(
    names: &mut Names,
    folder: &Path,
    (cert, key): (&Path, &Path),
    provider: &CryptoProvider,
) -> Result<Option<Duration>, TlsError> {
    let certified = Arc::new(certificate(cert, key, provider)?);
    let is_default = is_default(cert)
        || cert.parent().is_some_and(|parent| parent != folder && is_default(parent));
    add_names(names, cert, &certified, is_default)?;
    let expiry = validity::expiry(&certified.cert);
    if is_default {
        names.set_default(certified);
    }
    Ok(expiry)
}

fn is_default(path: &Path) -> bool {
    path.file_stem() == Some(OsStr::new("default"))
}

/// The files with the certificate and the key of an entry. Hidden files are ignored.
fn pair(entry: &Path) -> Option<(PathBuf, PathBuf)> {
    if entry.file_name()?.as_bytes().starts_with(b".") {
        return None;
    }
    // An entry may be part of the layout of certbot, with a folder for each certificate.
    let of_chain = |chain: PathBuf| {
        chain.is_file().then(|| (chain.clone(), chain.with_file_name("privkey.pem")))
    };
    match entry.extension().and_then(OsStr::to_str) {
        Some("pem")
            if entry.ends_with("fullchain.pem")
                && entry.with_file_name("privkey.pem").is_file() =>
        {
            of_chain(entry.to_owned())
        }
        Some("pem") if entry.is_file() => Some((entry.to_owned(), entry.to_owned())),
        Some("crt") if entry.is_file() => Some((entry.to_owned(), entry.with_extension("key"))),
        _ => of_chain(entry.join("fullchain.pem")),
    }
}

fn add_names(
    names: &mut Names,
    path: &Path,
    certified: &Arc<CertifiedKey>,
    is_default: bool,
) -> Result<(), TlsError> {
    let Some(der) = certified.cert.first() else { return Ok(()) };
    let parsed = webpki::EndEntityCert::try_from(der).map_err(|error| {
        TlsError::new(path, error.to_string(), "it must be a server's certificate, X.509 v3")
    })?;
    let mut any = is_default;
    for name in parsed.valid_dns_names() {
        names.add(name, certified);
        any = true;
    }
    if !any {
        let problem =
            "there is no DNS name (subjectAltName) in the certificate, so it would never be used";
        return Err(TlsError::new(
            path,
            problem,
            "get one with its names, or name the file default",
        ));
    }
    Ok(())
}
