//! A stream with bytes in front of it that were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use ropewalk_middleware::{Addr, Io, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with bytes in front of it that were read already. Bytes are read and given back, and
/// not peeked at, because a peek is ready again at once if the peer sends nothing more.
pub(super) struct Prefixed {
    bytes: Bytes,
    stream: Stream,
}

impl Prefixed {
    /// A stream that begins with these bytes.
    pub(super) fn stream(bytes: Bytes, stream: Stream) -> Stream {
        Stream::boxed(Self { bytes, stream })
    }
}

impl Io for Prefixed {
    fn abort(&mut self) {
        self.stream.abort();
    }

    fn local_addr(&self) -> Option<Addr> {
        self.stream.local_addr()
    }

    fn arrived(&self) -> Option<u64> {
        Some(self.stream.arrived()? + self.bytes.len() as u64)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bytes.is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
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
        if self.bytes.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..n]);
        self.bytes.advance(n);
        if self.bytes.is_empty() {
            // Frees them.
            self.bytes = Bytes::new();
        }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ropewalk_middleware::Stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::Prefixed;

    #[tokio::test]
    async fn a_reader_with_less_room_than_there_is_in_front_loses_no_byte() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(b" and the rest").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut stream = Prefixed::stream(Bytes::from("in front"), Stream::from_io(ours));
        let mut all = Vec::new();
        let mut three = [0; 3];
        loop {
            let n = stream.read(&mut three).await.unwrap();
            if n == 0 {
                break;
            }
            all.extend_from_slice(&three[..n]);
        }
        assert_eq!(all, b"in front and the rest");
    }
}
