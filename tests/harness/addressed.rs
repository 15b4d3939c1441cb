//! An endpoint within the process whose peers have whichever address the test gives them.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use ropewalk::{Addr, Endpoint, Listener, Peer, Stream};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The endpoint, and what connects to it.
pub(crate) fn addressed() -> (Endpoint, From) {
    let (queue, arrivals) = unbounded_channel();
    (Endpoint::from_listener(Arrivals(arrivals)), From(queue))
}

#[derive(Clone)]
pub(crate) struct From(UnboundedSender<(Stream, Peer)>);

impl From {
    /// A connection from this address, such as `192.0.2.1` or `2001:db8::1`; or from a Unix socket, `unix`.
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
