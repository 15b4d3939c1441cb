//! From plaintext to TLS in the middle of a connection (STARTTLS).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use ropewalk_middleware::{Error, Io, Result, SessionError, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::{Source, Wire};
use crate::tls::{HANDSHAKE, Side};

impl Wire {
    /// Writes the answers, then does the handshake on the bytes that the kernel has from there on.
    pub(crate) async fn upgrade(&mut self, side: Side) -> Result {
        self.refuse_plaintext()?;
        // The wire reads no bytes meanwhile, nor after the upgrade was dropped half-way: they
        // belong to the handshake.
        let source = std::mem::replace(&mut self.source, Source::Ended);
        poll_fn(|cx| self.poll_unless_aborted(cx, Self::poll_flush)).await?;
        // Until the handshake is complete, the wire can't write either.
        let stream = self.connection.replace_stream(Stream::boxed(Gone));
        let mut handshake = pin!(timeout(HANDSHAKE, side.shake(stream, self.closing.clone())));
        let shaken =
            poll_fn(|cx| self.poll_unless_aborted(cx, |_, cx| handshake.as_mut().poll(cx).map(Ok)))
                .await?;
        let (stream, tls) = match shaken {
            Ok(Ok(encrypted)) => encrypted,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::codec(error));
            }
            Ok(Err(error)) => return Err(Error::wire(error)),
            Err(_) => return Err(SessionError::HandshakeTimedOut.into()),
        };
        drop(self.connection.replace_stream(stream));
        self.connection.set_tls(tls);
        self.source = source;
        // Bytes that had arrived when a drain began have been read by the handshake.
        self.drain = None;
        Ok(())
    }

    /// Bytes that came in plaintext after the request must not be treated as encrypted input
    /// (CVE-2011-0411).
    fn refuse_plaintext(&mut self) -> Result {
        if self.connection.tls().is_some() {
            return Err(SessionError::AlreadyEncrypted.into());
        }
        if matches!(self.source, Source::Eof | Source::Ended) {
            return Err(Error::wire(io::ErrorKind::NotConnected.into()));
        }
        let bytes = self.input.len();
        if bytes == 0 && self.skip == 0 && self.at_boundary() {
            return Ok(());
        }
        self.input.clear();
        self.source = Source::Ended;
        Err(SessionError::PlaintextBehind { bytes }.into())
    }

    /// In its own task an aborted connection is dropped; this is for a session in another task.
    fn poll_unless_aborted<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        self.closing.watch(cx);
        if self.closing.is_aborted() {
            return Poll::Ready(Err(self.aborted()));
        }
        poll(self, cx)
    }
}

/// The placeholder for the stream while its handshake is under way.
struct Gone;

impl Io for Gone {}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(
        io::ErrorKind::NotConnected,
        "the upgrade to TLS was not completed",
    )))
}

impl AsyncRead for Gone {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        gone()
    }
}

impl AsyncWrite for Gone {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        gone()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        gone()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        gone()
    }
}
