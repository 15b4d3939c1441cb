//! Connections for tests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Connection, Peer, Stream};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tower::Service;

/// A connection of the given listener, and its peer.
pub(crate) fn connection_on(listener: usize, size: usize) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(size);
    (Connection::accepted(Stream::from_io(ours), Peer::new(Addr::Memory), listener), theirs)
}

/// A connection and its peer.
pub(crate) fn connection() -> (Connection, DuplexStream) {
    connection_on(0, 1024)
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
