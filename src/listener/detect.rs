//! TLS or plain text, by the first byte that a peer sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Io, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The first byte of a TLS handshake: the type of its record.
const HANDSHAKE: u8 = 0x16;

/// Reads the first byte, and returns whether TLS begins with it, and a stream that begins with it
/// too. The byte is read and not peeked at, because a peek is ready again at once if the peer sends
/// nothing more.
pub(super) async fn detect(mut stream: Stream) -> io::Result<(bool, Stream)> {
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    let [first] = first;
    Ok((first == HANDSHAKE, Stream::boxed(Prefixed { first: Some(first), stream })))
}

/// A stream with a byte in front of it that was read already.
struct Prefixed {
    first: Option<u8>,
    stream: Stream,
}

impl Io for Prefixed {
    fn abort(&mut self) {
        self.stream.abort();
    }

    fn local_addr(&self) -> Option<Addr> {
        self.stream.local_addr()
    }

    fn arrived(&self) -> Option<u64> {
        Some(self.stream.arrived()? + u64::from(self.first.is_some()))
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.first.is_some() { Poll::Ready(()) } else { self.stream.poll_readable(cx) }
    }

    fn handed_on(&self) -> u64 {
        self.stream.handed_on()
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(first) = self.first.take() else {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        };
        buf.put_slice(&[first]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
