//! An endpoint inside the process: a whole server in a test, without sockets and ports, and under
//! paused time if needed.
//!
//! ```
//! use std::future::poll_fn;
//!
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (endpoint, connector) = ropewalk::memory::endpoint();
//! let mut listener = endpoint.bind().await?;
//!
//! let mut client = connector.connect().await?;
//! let (mut server, _peer) = poll_fn(|cx| listener.poll_accept(cx)).await;
//! server.write_all(b"hello").await?;
//! drop(server);
//!
//! let mut text = String::new();
//! client.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//! # Ok(())
//! # }
//! ```

mod pipe;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Peer, Stream};
use tokio::sync::mpsc;

use crate::endpoint::remote::{Dial, Dialing};
use crate::listener::Listener;
use crate::{Endpoint, Remote};

pub use self::stream::MemoryStream;

/// How many connections may wait to be accepted.
const BACKLOG: usize = 1024;

/// How many bytes each direction of a connection holds.
const CAPACITY: usize = 64 * 1024;

/// Makes an endpoint, and the connector to it. Each direction of a connection holds 64 KiB, and
/// 1024 connections may wait to be accepted.
///
/// The endpoint can be bound once. Connections may be made before it is bound, and wait. They are
/// refused once its listener is dropped, or once the endpoint and all its clones are dropped
/// without being bound.
#[must_use]
pub fn endpoint() -> (Endpoint, Connector) {
    endpoint_with_capacity(CAPACITY)
}

/// Does the same as [`endpoint`] with room for this many bytes (at least 1) in each direction of a
/// connection.
#[must_use]
pub fn endpoint_with_capacity(bytes: usize) -> (Endpoint, Connector) {
    let (listener, connector) = listener(bytes);
    (Endpoint::from_listener(listener), connector)
}

fn listener(capacity: usize) -> (MemoryListener, Connector) {
    let (queue, arrivals) = mpsc::channel(BACKLOG);
    (MemoryListener { arrivals }, Connector { queue, capacity })
}

/// A listener whose connections the caller will wrap.
#[cfg(feature = "testing")]
pub(crate) fn bare() -> (MemoryListener, Connector) {
    listener(CAPACITY)
}

/// Makes connections to one memory endpoint. Its clones connect to the same endpoint.
#[derive(Clone)]
pub struct Connector {
    queue: mpsc::Sender<MemoryStream>,
    capacity: usize,
}

impl Connector {
    /// Connects as soon as there is room in the queue of connections that wait to be accepted.
    ///
    /// As with sockets, this does not wait until the connection is accepted. Cancel safe: if it is
    /// dropped early, no connection was made.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if the listener was dropped.
    pub async fn connect(&self) -> io::Result<MemoryStream> {
        let Ok(room) = self.queue.reserve().await else { return Err(refused()) };
        let (client, server) = MemoryStream::pair(self.capacity);
        room.send(server);
        Ok(client)
    }

    /// Connects without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the queue is full, and `ConnectionRefused` if the listener was dropped.
    pub fn try_connect(&self) -> io::Result<MemoryStream> {
        let room = self.queue.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => io::ErrorKind::WouldBlock.into(),
            mpsc::error::TrySendError::Closed(()) => refused(),
        })?;
        let (client, server) = MemoryStream::pair(self.capacity);
        room.send(server);
        Ok(client)
    }
}

impl Dial for Connector {
    fn dial(&self) -> Dialing<'_> {
        Box::pin(async { Ok((Stream::boxed(self.connect().await?), Peer::new(Addr::Memory))) })
    }

    fn addr(&self) -> Addr {
        Addr::Memory
    }
}

impl From<Connector> for Remote {
    fn from(connector: Connector) -> Self {
        Self::dial(connector)
    }
}

impl From<&Connector> for Remote {
    fn from(connector: &Connector) -> Self {
        Self::dial(connector.clone())
    }
}

fn refused() -> io::Error {
    io::ErrorKind::ConnectionRefused.into()
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// The listener to which the connectors connect.
pub(crate) struct MemoryListener {
    arrivals: mpsc::Receiver<MemoryStream>,
}

impl MemoryListener {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<MemoryStream> {
        match self.arrivals.poll_recv(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(stream),
            // Without connectors no more connections will come, so this is never woken.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Listener for MemoryListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        self.poll_next(cx).map(|stream| (Stream::boxed(stream), Peer::new(Addr::Memory)))
    }

    fn last_call(&mut self) {
        self.arrivals.close();
    }

    fn has_pending(&self) -> bool {
        !self.arrivals.is_empty()
    }

    fn pending(&self) -> usize {
        self.arrivals.len()
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

impl Drop for MemoryListener {
    /// Resets the connections that wait in the queue, as a kernel does.
    fn drop(&mut self) {
        self.arrivals.close();
        while let Ok(stream) = self.arrivals.try_recv() {
            stream.abort();
        }
    }
}
