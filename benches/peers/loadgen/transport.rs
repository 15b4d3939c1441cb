//! The bytes of a connection: TCP as it is, or under TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use ropewalk_peers::Result;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// What carries the frames.
pub enum Transport {
    Tcp(TcpStream),
    Tls(Box<Tls>),
}

impl Transport {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => &tls.0.sock,
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buf),
            Self::Tls(tls) => tls.0.read(buf),
        }
    }
}

/// Under TLS the first of these does the handshake as well, or as much of it as is possible now.
impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.0.flush(),
        }
    }
}

/// The client's end of an encrypted connection. It says goodbye when it goes.
pub struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Drop for Tls {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        // A server that is gone needs no goodbye.
        while self.0.conn.wants_write() && self.0.conn.write_tls(&mut self.0.sock).is_ok_and(|n| n > 0) {}
    }
}

/// What all encrypted connections share.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl Connector {
    /// One that trusts this certificate alone, speaks TLS 1.3 alone, and never resumes: each
    /// handshake is a whole one. It says that it could, as all clients do, so the server sends its
    /// tickets.
    pub fn new(trusted: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trusted)?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Nothing is sent yet.
    pub fn connect(&self, tcp: TcpStream) -> Result<Transport> {
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
        let session = ClientConnection::new(Arc::clone(&self.0), name)?;
        Ok(Transport::Tls(Box::new(Tls(StreamOwned::new(session, tcp)))))
    }
}
