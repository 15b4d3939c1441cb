//! The handshake, and the encrypted stream that it produces.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::connection::LINGER;
use ropewalk_middleware::{Addr, Closing, Io, Stream, TlsInfo, TlsVersion};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// How long a handshake may take in total.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// How much a peer whose handshake failed may still send: more than it can send before it reads the
/// alert.
const REFUSED: u64 = 64 * 1024;

/// Does the server's side of a handshake. It has no deadline of its own, except for the alert of a
/// failed one. In the middle of a connection, `closing` is that of the connection: if it is aborted
/// during the handshake, the stream ends in a reset, like any other.
pub(crate) async fn accept(
    config: Arc<ServerConfig>,
    stream: Stream,
    closing: Option<Closing>,
) -> io::Result<(Stream, TlsInfo)> {
    match TlsAcceptor::from(config)
        .accept(Under { stream, handed_on: 0, closing })
        .into_fallible()
        .await
    {
        Ok(tls) => {
            let session = tls.get_ref().1;
            let info = settled(session, session.server_name().map(str::to_ascii_lowercase));
            Ok((Stream::boxed(Tls(tls.into())), info))
        }
        Err((error, mut under)) => {
            drop(timeout(LINGER, refuse(&mut under.stream)).await);
            Err(error)
        }
    }
}

/// Does the client's side of a handshake. It has no deadline of its own.
pub(crate) async fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: Stream,
    closing: Option<Closing>,
) -> io::Result<(Stream, TlsInfo)> {
    let text = name.to_str().into_owned();
    let tls =
        TlsConnector::from(config).connect(name, Under { stream, handed_on: 0, closing }).await?;
    let info = settled(tls.get_ref().1, Some(text));
    Ok((Stream::boxed(Tls(tls.into())), info))
}

/// The side of a handshake in the middle of a connection, with its configuration.
#[allow(unreachable_pub, missing_debug_implementations)] // it is part of a sealed trait
pub enum Side {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

impl Side {
    pub(crate) async fn shake(
        self,
        stream: Stream,
        closing: Closing,
    ) -> io::Result<(Stream, TlsInfo)> {
        match self {
            Self::Server(config) => accept(config, stream, Some(closing)).await,
            Self::Client(config, name) => connect(config, name, stream, Some(closing)).await,
        }
    }
}

/// Lets the peer read the alert: a socket closed with unread input is reset, and the reset destroys
/// the alert.
async fn refuse(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(REFUSED);
    let mut bin = [0; 1024];
    while rest.read(&mut bin).await? > 0 {}
    Ok(())
}

fn settled(session: &CommonState, name: Option<String>) -> TlsInfo {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
        // rustls has no other version.
        _ => TlsVersion::Tls13,
    };
    let mut info = TlsInfo::new(version);
    if let Some(name) = name {
        info = info.with_server_name(name);
    }
    if let Some(protocol) = session.alpn_protocol() {
        info = info.with_alpn(protocol);
    }
    if let Some(chain) = session.peer_certificates() {
        info =
            info.with_certificates(chain.iter().map(|certificate| certificate.to_vec()).collect());
    }
    info
}

/// An encrypted stream. A shutdown sends `close_notify` before it half-closes the transport; an end
/// without the peer's `close_notify` is an error (`UnexpectedEof`), because an attacker may have
/// cut the stream.
struct Tls(TlsStream<Under>);

impl Io for Tls {
    fn abort(&mut self) {
        self.0.get_mut().0.stream.abort();
    }

    fn local_addr(&self) -> Option<Addr> {
        self.0.get_ref().0.stream.local_addr()
    }

    /// A read that is pending has returned all decrypted bytes, so only those in the transport are
    /// left.
    fn arrived(&self) -> Option<u64> {
        self.0.get_ref().0.stream.arrived()
    }

    fn handed_on(&self) -> u64 {
        self.0.get_ref().0.handed_on
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The transport, and how many bytes it has accepted: rustls may buffer up to 64 KiB of written
/// data.
struct Under {
    stream: Stream,
    handed_on: u64,
    closing: Option<Closing>,
}

impl Drop for Under {
    fn drop(&mut self) {
        if self.closing.as_ref().is_some_and(Closing::is_aborted) {
            self.stream.abort();
        }
    }
}

impl Under {
    fn count(&mut self, taken: io::Result<usize>) -> io::Result<usize> {
        self.handed_on += *taken.as_ref().unwrap_or(&0) as u64;
        taken
    }
}

impl AsyncRead for Under {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Under {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.count(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.count(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
