//! Services that panic, and what must not come of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ropewalk::{CloseReason, Connection, ConnectionLimitLayer, Error, LogLayer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::Service;

use super::{ask, assert_reasons, on_memory, settle, shout};

/// The number of the connection that panics; the one before it and the one after it do not.
pub(crate) const SECOND: usize = 1;

/// Runs a service of which the second connection panics, by itself or when it is sent `fall`. Its
/// neighbours, one open before and one after, lose no frame; its place comes back; it is counted
/// once.
///
/// There are three places: were the second's lost, the last connection would be refused.
pub(crate) async fn ends_its_own_connection_only<S>(service: S)
where
    S: Service<Connection, Response = (), Error = Error, Future: Send + 'static> + Send + 'static,
{
    let limit = ConnectionLimitLayer::new(3).refuse_with("full\n");
    let (server, connector) =
        on_memory(Server::new().layer(limit.clone()).layer(LogLayer::new()), service).await;
    let mut before = connector.connect().await.unwrap();
    ask(&mut before, "first\n", "FIRST\n").await;
    // Half a frame, which must still be there afterwards.
    before.write_all(b"sec").await.unwrap();
    settle().await;
    let mut falls = connector.connect().await.unwrap();
    settle().await;
    let mut after = connector.connect().await.unwrap();
    ask(&mut after, "third\n", "THIRD\n").await;

    falls.write_all(b"fall\n").await.ok();
    drop(falls.read_to_end(&mut Vec::new()).await);
    server.until("it has ended", |counts| counts.active() == 2).await;
    assert_reasons(&server.counts(), &[(CloseReason::Panic, 1)]);
    assert_eq!(limit.active(), 2, "its place is free again");

    ask(&mut before, "ond\n", "SECOND\n").await;
    ask(&mut after, "fourth\n", "FOURTH\n").await;
    let mut new = connector.connect().await.unwrap();
    ask(&mut new, "fifth\n", "FIFTH\n").await;
    drop((before, after, new));
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_eq!((limit.active(), limit.available()), (0, 3));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 3), (CloseReason::Panic, 1)]);
}

/// Tells the connections of one server apart.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<AtomicUsize>);

impl Turn {
    pub(crate) fn is_second(&self) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst) == SECOND
    }
}

pub(crate) fn answer(line: &Bytes) -> Bytes {
    assert_ne!(line, "fall", "on purpose");
    shout(line)
}
