//! An endpoint within the process whose peers have the addresses that the test gives them.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::connection::Stream;
use ropewalk::endpoint::Listener;
use ropewalk::{Addr, ConnectionService, Endpoint, Peer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::{Running, ask, settle};

/// The endpoint, and what connects to it.
pub(crate) fn addressed() -> (Endpoint, From) {
    let (queue, arrivals) = unbounded_channel();
    (Endpoint::from_listener(Arrivals(arrivals)), From(queue))
}

#[derive(Clone)]
pub(crate) struct From(UnboundedSender<(Stream, Peer)>);

impl From {
    /// A connection from this address, such as `192.0.2.1` or `2001:db8::1`; or from a Unix socket,
    /// `unix`.
    pub(crate) fn host(&self, host: &str) -> DuplexStream {
        let addr = match host {
            "unix" => Addr::Unix(None),
            ip => Addr::Tcp(SocketAddr::new(ip.parse().unwrap(), 1024)),
        };
        let (theirs, ours) = duplex(64 * 1024);
        assert!(self.0.send((Stream::from_io(ours), Peer::new(addr))).is_ok(), "somebody listens");
        theirs
    }
}

struct Arrivals(UnboundedReceiver<(Stream, Peer)>);

impl Listener for Arrivals {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(arrived)) => Poll::Ready(arrived),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

/// A server with room for so many connections.
pub(crate) async fn with_room(n: usize, service: impl ConnectionService) -> (Running, From) {
    limited(Server::new().max_connections(n), service).await
}

pub(crate) async fn limited(server: Server, service: impl ConnectionService) -> (Running, From) {
    let (endpoint, from) = addressed();
    (Running::start(server.listen(endpoint).serve(service)).await, from)
}

/// A client of a server that answers in capitals, and that it has served.
pub(crate) async fn served(from: &From, host: &str) -> DuplexStream {
    let mut client = from.host(host);
    ask(&mut client, "a\n", "A\n").await;
    client
}

/// Whether a client is still without an answer after so long.
pub(crate) async fn waits(client: &mut DuplexStream, time: Duration) -> bool {
    client.write_all(b"new\n").await.unwrap();
    timeout(time, client.read(&mut [0; 4])).await.is_err()
}

pub(crate) async fn is_open(client: &mut DuplexStream) -> bool {
    settle().await;
    timeout(Duration::from_millis(1), client.read(&mut [0])).await.is_err()
}
