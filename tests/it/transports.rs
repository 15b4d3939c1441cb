//! Transports that are not the kernel's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use ropewalk::connection::Io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

/// Whatever reads and writes, as somebody else's transport.
pub(crate) struct Foreign<T>(pub(crate) T);

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for Foreign<T> {}

impl<T: AsyncRead + Unpin> AsyncRead for Foreign<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Foreign<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Gives one item a read and then nothing more, and takes everything. Like tokio's own it keeps to
/// the turn of its task.
pub(crate) struct Scripted<I> {
    reads: I,
    written: Arc<AtomicUsize>,
}

impl<I: Iterator<Item = io::Result<&'static [u8]>>> Scripted<I> {
    pub(crate) fn new(reads: impl IntoIterator<IntoIter = I>) -> Self {
        Self { reads: reads.into_iter(), written: Arc::default() }
    }

    /// How many bytes were written to it.
    pub(crate) fn written(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.written)
    }
}

impl<I: Iterator<Item = io::Result<&'static [u8]>> + Send + Unpin + 'static> Io for Scripted<I> {}

impl<I: Iterator<Item = io::Result<&'static [u8]>> + Unpin> AsyncRead for Scripted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = ready!(poll_proceed(cx));
        let Some(read) = self.reads.next() else { return Poll::Pending };
        turn.made_progress();
        Poll::Ready(read.map(|bytes| buf.put_slice(bytes)))
    }
}

impl<I: Unpin> AsyncWrite for Scripted<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(poll_proceed(cx)).made_progress();
        self.written.fetch_add(buf.len(), Ordering::SeqCst);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
