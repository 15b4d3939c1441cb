//! A leaf on one end of an in-process pipe and the test on the other: no server, no socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ropewalk::connection::{Closing, Io, Stats, Stream};
use ropewalk::{Addr, Connection, Peer, Result};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::task::JoinHandle;
use tower::Service;

pub(crate) use crate::harness::settle;

/// How often a transport was read from and written to with success, and how often a read found
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) reads: AtomicUsize,
    pub(crate) empty_reads: AtomicUsize,
    pub(crate) writes: AtomicUsize,
}

impl Calls {
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

/// One end of a pipe that counts.
pub(crate) struct Counted {
    io: DuplexStream,
    calls: Arc<Calls>,
}

impl Io for Counted {}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(cx, buf);
        let counter = if poll.is_ready() { &self.calls.reads } else { &self.calls.empty_reads };
        counter.fetch_add(1, Ordering::SeqCst);
        poll
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        if poll.is_ready() {
            self.calls.writes.fetch_add(1, Ordering::SeqCst);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A leaf that runs, seen from its peer.
pub(crate) struct Wired {
    pub(crate) peer: DuplexStream,
    pub(crate) calls: Arc<Calls>,
    pub(crate) closing: Closing,
    pub(crate) stats: Stats,
    pub(crate) task: JoinHandle<Result>,
}

/// Runs a leaf over a pipe that holds 64 KiB each way.
pub(crate) fn wired<S>(leaf: S) -> Wired
where
    S: Service<Connection, Response = (), Error = ropewalk::Error, Future: Future + Send + 'static>,
{
    wired_with(leaf, 64 * 1024)
}

/// The same over a pipe that holds `capacity` bytes each way.
pub(crate) fn wired_with<S>(leaf: S, capacity: usize) -> Wired
where
    S: Service<Connection, Response = (), Error = ropewalk::Error, Future: Future + Send + 'static>,
{
    let (peer, io) = duplex(capacity);
    let calls = Arc::new(Calls::default());
    let (closing, stats, task) = over(Counted { io, calls: Arc::clone(&calls) }, leaf);
    Wired { peer, calls, closing, stats, task }
}

/// Runs a leaf over any transport.
pub(crate) fn over<S>(io: impl Io, mut leaf: S) -> (Closing, Stats, JoinHandle<Result>)
where
    S: Service<Connection, Response = (), Error = ropewalk::Error, Future: Future + Send + 'static>,
{
    let connection = Connection::new(Stream::boxed(io), Peer::new(Addr::Memory));
    (connection.closing(), connection.stats(), tokio::spawn(leaf.call(connection)))
}

impl Wired {
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.peer.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads exactly what is expected.
    #[track_caller]
    pub(crate) fn expect<'a>(&'a mut self, expected: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut got = vec![0; expected.len()];
            let read = self.peer.read_exact(&mut got).await;
            assert!(read.is_ok(), "{caller}: the stream ended before {expected:?}");
            assert_eq!(String::from_utf8_lossy(&got), expected, "{caller}");
        }
    }

    /// Half-closes, and returns everything until the other side does too.
    pub(crate) async fn finish(&mut self) -> String {
        self.peer.shutdown().await.unwrap();
        self.rest().await
    }

    /// Everything until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.peer.read_to_end(&mut rest).await.unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// How the leaf ended, when its peer has gone.
    pub(crate) async fn end(self) -> Result {
        drop(self.peer);
        self.task.await.unwrap()
    }
}
