//! The end of a worker that panics.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::{Connection, Error, Result, Server};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use crate::harness::on_tcp;

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Closes each connection; armed, it panics when it is readied, in the worst of ways.
struct Bomb(Arc<AtomicBool>);

/// The payload of a panic, which panics again when it is dropped.
struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        panic!("the worker's own thread panics, as it should");
    }
}

impl Service<Connection> for Bomb {
    type Response = ();
    type Error = Error;
    type Future = Ready<Result>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        if self.0.swap(false, Ordering::SeqCst) {
            std::panic::panic_any(Fuse);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Connection) -> Self::Future {
        ready(Ok(()))
    }
}

#[tokio::test]
async fn a_worker_that_dies_ends_the_server_with_an_error() {
    let armed = Arc::new(AtomicBool::new(false));
    let server = on_tcp(Server::new().workers(3), Bomb(Arc::clone(&armed))).await;
    server.connect().await;
    server.until("it is served", |counts| counts.closed_in_all() == 1).await;
    armed.store(true, Ordering::SeqCst);
    // The first readies the service for the next, so the server may have ended before that comes.
    let address = server.tcp_addr(0);
    let clients = (server.connect().await, TcpStream::connect(address).await);
    let (_, error) = timeout(PATIENCE, server.fails()).await.expect("it ends");
    assert!(error.to_string().contains("a worker has panicked"), "{error}");
    drop(clients);
}
