//! Certificates made on the spot, TLS clients, and a server on a socket and in memory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
use ropewalk::memory::{Connector, MemoryStream};
use ropewalk::{Addr, ConnectionService, Endpoint, Handle, Server, TlsConfig, memory};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long anything may take before the test fails. Far more than it ever should.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Asks again and again until it is so; fails when it never is.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let asking = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "waited in vain until {what}");
}

/// The providers of cryptography that are compiled in, with their names.
pub fn providers() -> Vec<(&'static str, Arc<CryptoProvider>)> {
    vec![
        ("ring", Arc::new(ring::default_provider())),
        #[cfg(feature = "aws-lc")]
        ("aws-lc", Arc::new(rustls::crypto::aws_lc_rs::default_provider())),
    ]
}

/// A directory that goes with this value.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Replaces a file at once: a reader sees the old one or the new one.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let (path, half) = (self.join(name), self.join(&format!("{name}.half")));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&half, text).unwrap();
        fs::rename(half, &path).unwrap();
        path
    }
}

/// Signs certificates.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
#[derive(Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
    pub der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Issued {
    /// For a resolver of rustls.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::try_from(self.key_der.clone()).unwrap();
        let key = ring::default_provider().key_provider.load_private_key(key).unwrap();
        Arc::new(CertifiedKey::new(vec![CertificateDer::from(self.der.clone())], key))
    }
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Or one would be taken for another until its signature is checked.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("CA {}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue<const N: usize>(&self, names: [&str; N]) -> Issued {
        let names: Vec<String> = names.map(String::from).into();
        self.issue_params(&CertificateParams::new(names).unwrap())
    }

    pub fn issue_params(&self, params: &CertificateParams) -> Issued {
        self.issue_key(params, &KeyPair::generate().unwrap())
    }

    /// A certificate with this serial number.
    pub fn issue_numbered(&self, name: &str, number: u64) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(number.into());
        self.issue_params(&params)
    }

    /// The list of the certificates that it has revoked, by their serial numbers.
    pub fn revoke(&self, numbers: &[u64]) -> String {
        self.revoke_until(numbers, 2099)
    }

    /// The same, with the year of the next list.
    pub fn revoke_until(&self, numbers: &[u64], year: i32) -> String {
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: (*number).into(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// Another certificate for `localhost` with the same key.
    pub fn renew(&self, issued: &Issued) -> Issued {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        self.issue_key(&params, &KeyPair::from_pem(&issued.key).unwrap())
    }

    fn issue_key(&self, params: &CertificateParams, key: &KeyPair) -> Issued {
        let cert = params.signed_by(key, &self.0).unwrap();
        Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }
}

/// A client, by its settings for TLS.
pub struct Client {
    roots: RootCertStore,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
    pub name: String,
}

impl Client {
    /// One that trusts this CA and asks for this name.
    pub fn new(ca: &Ca, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.0.der().clone()).unwrap();
        Self {
            roots,
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: Vec::new(),
            identity: None,
            name: name.to_owned(),
        }
    }

    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    pub fn identity(self, issued: &Issued) -> Self {
        self.identity_often(issued, 1)
    }

    /// Shows a chain of so many certificates, though the first would do.
    pub fn identity_often(mut self, issued: &Issued, n: usize) -> Self {
        self.identity = Some((vec![issued.der.clone(); n], issued.key_der.clone()));
        self
    }

    pub fn connector(&self) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::try_from(key.clone()).unwrap();
                builder
                    .with_client_auth_cert(
                        chain.iter().cloned().map(CertificateDer::from).collect(),
                        key,
                    )
                    .unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.name.parse::<std::net::IpAddr>().is_err();
        TlsConnector::from(Arc::new(config))
    }

    pub async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(self.name.clone()).unwrap();
        soon(self.connector().connect(name, stream)).await
    }

    pub async fn tcp(&self, addr: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.shake(TcpStream::connect(addr).await.unwrap()).await
    }

    pub async fn memory(&self, connector: &Connector) -> io::Result<TlsStream<MemoryStream>> {
        self.shake(connector.connect().await.unwrap()).await
    }
}

/// What a client sends first.
pub async fn client_hello(ca: &Ca) -> Vec<u8> {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let client = Client::new(ca, "localhost").alpn(&["echo/1"]);
    let shaking = tokio::spawn(async move { client.shake(ours).await.is_ok() });
    let mut header = [0; 5];
    theirs.read_exact(&mut header).await.unwrap();
    let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    theirs.read_exact(&mut hello).await.unwrap();
    shaking.abort();
    [&header[..], &hello].concat()
}

/// Writes, and reads as much.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> io::Result<()> {
    soon(async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer).await?;
        assert!(answer == bytes, "{:?}", answer.escape_ascii().to_string());
        Ok(())
    })
    .await
}

/// A server on a TCP socket and in memory at once, both with these certificates.
pub struct Running {
    pub handle: Handle,
    pub addr: SocketAddr,
    pub memory: Connector,
    pub task: JoinHandle<ropewalk::Result>,
}

impl Running {
    pub async fn tls(tls: impl Into<TlsConfig>, service: impl ConnectionService) -> Self {
        Self::tls_on(Server::new(), tls, service).await
    }

    /// The same with a server that is set up already, but for its endpoints.
    pub async fn tls_on(
        server: Server,
        tls: impl Into<TlsConfig>,
        service: impl ConnectionService,
    ) -> Self {
        let tls = tls.into();
        Self::start(server, |endpoint| endpoint.tls(tls.clone()), service).await
    }

    pub async fn plain(service: impl ConnectionService) -> Self {
        Self::start(Server::new(), |endpoint| endpoint, service).await
    }

    async fn start(
        server: Server,
        wrap: impl Fn(Endpoint) -> Endpoint,
        service: impl ConnectionService,
    ) -> Self {
        let (endpoint, memory) = memory::endpoint();
        let tcp = Endpoint::tcp(([127, 0, 0, 1], 0).into());
        let server =
            server.listen(wrap(tcp)).listen(wrap(endpoint)).serve(service).bind().await.unwrap();
        let handle = server.handle();
        let Addr::Tcp(addr) = handle.addresses()[0] else { panic!("{:?}", handle.addresses()) };
        Self { handle, addr, memory, task: tokio::spawn(server) }
    }

    /// Drains, waits for the end, and checks the books.
    pub async fn end(self) {
        self.handle.drain(PATIENCE);
        soon(self.task).await.unwrap().unwrap();
        let (counts, preambles) = (self.handle.counts(), self.handle.preambles());
        assert_eq!(counts.active(), 0);
        assert_eq!(self.handle.memory().in_use(), 0);
        assert_eq!(counts.accepted(), counts.closed_in_all());
        assert_eq!(preambles.pending(), 0);
    }
}

/// A certificate for `localhost` in files of their own.
pub fn localhost(ca: &Ca, folder: &Folder) -> TlsConfig {
    let issued = ca.issue(["localhost"]);
    TlsConfig::files(folder.write("cert.pem", &issued.cert), folder.write("key.pem", &issued.key))
}

/// The text of a path, for endpoint strings.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
