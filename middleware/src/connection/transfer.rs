//! The bytes of a connection: read, written, counted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::observer::{ByteObserver, Moved};
use super::{Connection, Stream};

impl Connection {
    /// Ends the connection after one write without waiting; bytes that are not accepted at once are
    /// lost.
    pub(crate) fn write_once(mut self, bytes: &[u8]) {
        let written = self.stream.take().map_or(0, |stream| stream.write_once(bytes).unwrap_or(0));
        self.shared().counters.bytes_out.add(written as u64);
        self.show_written(&Poll::Ready(Ok(written)), &[IoSlice::new(bytes)]);
    }

    /// Writes as much as the kernel accepts at this moment. The runtime may still consider the
    /// socket not writable, because it is notified only between two turns of its tasks. Returns 0
    /// if nothing is accepted, and for every transport that is not a kernel socket.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.stream().write_now(bytes) {
            Ok(0) => Poll::Pending,
            written => Poll::Ready(written),
        };
        self.show_written(&written, &[IoSlice::new(bytes)]);
        match self.written(written) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(0),
        }
    }

    fn io(&mut self) -> Pin<&mut Stream> {
        // As in `stream`.
        Pin::new(self.stream.as_mut().expect("a connection has its stream until it is taken apart"))
    }

    /// Counts written bytes. A leaf reports itself when bytes have moved, once in each turn.
    fn written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let plain = self.shared().activity.is_plain();
        if plain {
            self.shared().activity.set_blocked(polled.is_pending());
        }
        let result = ready!(polled);
        let written = *result.as_ref().unwrap_or(&0) as u64;
        self.shared().counters.bytes_out.add(written);
        if written > 0 && plain {
            self.shared().moved();
        }
        Poll::Ready(self.note(result))
    }

    /// Notes that the peer is gone, so that the close reason can say so.
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && is_lost(error)
        {
            self.shared().closing.lost();
        }
        result
    }

    /// Takes this observer away, unless another one has its place.
    pub(crate) fn end_observation(&self, observer: &dyn ByteObserver) {
        self.shared().observer_to_set().clear(observer);
    }

    /// Shows an observer what has moved, if there is one.
    #[inline]
    pub(super) fn show(&self, moved: Moved<'_>) {
        if self.shared().has_rare() {
            self.show_observer(moved);
        }
    }

    #[cold]
    fn show_observer(&self, moved: Moved<'_>) {
        if let Some(observer) = self.shared().observer() {
            observer.saw(self, moved);
        }
    }

    /// The same for as many of these bytes as were written.
    #[inline]
    fn show_written(&self, polled: &Poll<io::Result<usize>>, parts: &[IoSlice<'_>]) {
        if self.shared().has_rare()
            && let Poll::Ready(Ok(written)) = polled
        {
            self.show_parts(*written, parts);
        }
    }

    #[cold]
    fn show_parts(&self, mut written: usize, parts: &[IoSlice<'_>]) {
        let Some(observer) = self.shared().observer() else { return };
        for part in parts {
            let part = &part[..part.len().min(written)];
            if part.is_empty() {
                continue;
            }
            written -= part.len();
            observer.saw(self, Moved::Written(part));
        }
    }
}

/// Whether an I/O error means that the peer, or the network path to it, is gone.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionReset
            | K::BrokenPipe
            | K::ConnectionAborted
            | K::NotConnected
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
    )
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = ready!(this.io().poll_read(cx, buf));
        let read = (buf.filled().len() - before) as u64;
        this.shared().counters.bytes_in.add(read);
        if this.shared().has_rare() && result.is_ok() && buf.capacity() > before {
            this.show_observer(Moved::Read(&buf.filled()[before..]));
        }
        if read > 0 && this.shared().activity.is_plain() {
            this.shared().moved();
        }
        Poll::Ready(this.note(result))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.io().poll_write(cx, buf);
        this.show_written(&polled, &[IoSlice::new(buf)]);
        this.written(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.io().poll_write_vectored(cx, bufs);
        this.show_written(&polled, bufs);
        this.written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(this.io().poll_flush(cx));
        Poll::Ready(this.note(result))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(this.io().poll_shutdown(cx));
        if result.is_ok() {
            this.show(Moved::Shut);
        }
        Poll::Ready(this.note(result))
    }
}
