//! Connections for tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Connection, Io, Peer, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tower::Service;

/// An in-process stream, as a connection takes it.
#[derive(Debug)]
pub(crate) struct Pipe(DuplexStream);

/// Two ends of a pipe that holds `size` bytes a direction.
pub(crate) fn pipe(size: usize) -> (Pipe, DuplexStream) {
    let (ours, theirs) = duplex(size);
    (Pipe(ours), theirs)
}

/// A connection of the given listener, and its peer.
pub(crate) fn connection_on(listener: usize, size: usize) -> (Connection, DuplexStream) {
    let (ours, theirs) = pipe(size);
    (Connection::accepted(Stream::boxed(ours), Peer::new(Addr::Memory), listener), theirs)
}

/// A connection and its peer.
pub(crate) fn connection() -> (Connection, DuplexStream) {
    connection_on(0, 1024)
}

impl Io for Pipe {}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A service that holds its connection until the peer closes, and counts those it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(Arc<Gauge>);

/// How many are held, and how many were at most.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    ever: AtomicUsize,
}

impl Hold {
    pub(crate) fn now(&self) -> usize {
        self.0.now.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub(crate) fn ever(&self) -> usize {
        self.0.ever.load(Ordering::SeqCst)
    }

    pub(crate) fn enter(&self) -> Inside {
        let now = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(now, Ordering::SeqCst);
        self.0.ever.fetch_add(1, Ordering::SeqCst);
        Inside(Arc::clone(&self.0))
    }
}

/// Counts while it lives.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Gauge>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Connection> for Hold {
    type Response = ();
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut connection: Connection) -> Self::Future {
        let hold = self.clone();
        Box::pin(async move {
            let _inside = hold.enter();
            connection.read_to_end(&mut Vec::new()).await.map(drop)
        })
    }
}

/// Lets every task run until it waits for something else than its turn.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
