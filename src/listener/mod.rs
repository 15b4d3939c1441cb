//! The `Listener` trait: a bound endpoint that accepts connections.

mod accept_error;
#[cfg(feature = "rustls")]
mod detect;
pub(crate) mod opened;
pub(crate) mod paced;
pub(crate) mod path;
pub(crate) mod preamble;
mod prefixed;
pub(crate) mod proxy;
pub(crate) mod recognize;
#[cfg(feature = "rustls")]
pub(crate) mod tls;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Peer, Stream};

pub use self::preamble::{PreambleCounts, PreambleDrop};
pub use self::recognize::Protocols;

use self::path::BoundPath;

/// A source of connections: a bound socket that accepts.
///
/// `tcp:`, `unix:` and `memory:` endpoints bind to listeners of this crate. Implement it for
/// another transport (vsock, a simulated network, the streams of a QUIC connection):
/// [`Endpoint::from_listener`] makes an endpoint of it, and [`Stream::from_io`] wraps its streams.
///
/// [`Endpoint::from_listener`]: crate::Endpoint::from_listener
pub trait Listener: Send + 'static {
    /// The next connection.
    ///
    /// It returns no errors: the failure of one connection concerns only that connection, and after
    /// a failure of the listener (for example a shortage of descriptors) it waits and tries again,
    /// without spinning. It is cancel safe by its form: no connection is lost when the caller does
    /// not poll again, or polls another listener first. It must not do slow work.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)>;

    /// Called once, when a drain begins or the endpoint is removed: from here on the listener
    /// returns only connections that have already been made, and must not miss any of them. A
    /// listener that may learn of a connection late (for example by its runtime's readiness) checks
    /// for itself now. If it can, it accepts them all and closes its socket at once, and
    /// [`has_pending`](Listener::has_pending) returns true while it holds connections: it is polled
    /// for as many as can be served, which may take until the drain's deadline.
    fn last_call(&mut self) {}

    /// The next connection of those it has taken before and could not return yet, for example
    /// because of a handshake under way; it takes no more from its socket. It is called instead of
    /// [`poll_accept`](Listener::poll_accept) while the endpoint is paused. By default it is
    /// pending.
    fn poll_pending(&mut self, _cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        Poll::Pending
    }

    /// Whether, after the last call, it holds connections that it can't return yet, for example
    /// because of a handshake under way. While it does, the server goes on polling, until the
    /// drain's deadline; then the listener is dropped.
    fn has_pending(&self) -> bool {
        false
    }

    /// How many such connections it holds, as far as it knows. A drain counts those that it could
    /// not serve by its deadline.
    fn pending(&self) -> usize {
        usize::from(self.has_pending())
    }

    /// The error for which it will accept no more connections, for example because its socket is
    /// closed; returned once. It is called after [`poll_accept`](Listener::poll_accept) was
    /// pending. The server reports the error
    /// ([`on_listener_failure`](crate::Server::on_listener_failure)) and goes on polling the
    /// listener, which may recover. A listener that wraps another one passes the call on.
    fn failure(&mut self) -> Option<io::Error> {
        None
    }

    /// Whether, since this was last called, it could not accept a connection because of a shortage
    /// of descriptors. It is called after [`poll_accept`](Listener::poll_accept) was pending. If it
    /// returns true, the server drops the preamble that has been silent for longest, if there is
    /// one, so that the next attempt may succeed. A listener that wraps another one passes the call
    /// on.
    fn lacks_descriptors(&mut self) -> bool {
        false
    }

    /// How often it could not accept a connection since it was made; 0 by default. It is called
    /// after [`poll_accept`](Listener::poll_accept) was pending. A listener that wraps another one
    /// passes the call on.
    fn accept_errors(&self) -> u64 {
        0
    }

    /// Called once, when a hot restart has handed its socket to the new process: from here on the
    /// listener must not accept, because new and waiting connections belong to the new process.
    /// `last_call` is not called then. Connections accepted before may still be returned, as long
    /// as [`has_pending`](Listener::has_pending) returns true. A listener that wraps another one
    /// drops the inner one.
    fn handed_over(&mut self) {}

    /// The address it is bound to, with the port that the system chose if 0 was requested.
    fn local_addr(&self) -> Addr;

    /// The socket that a hot restart hands to the new process. `None`, the default, if it can't be
    /// handed over: then the server refuses to be restarted. A listener that wraps another one
    /// passes the call on.
    fn hand_over(&self) -> Option<HandOver<'_>> {
        None
    }

    /// Called during a hot restart: whether this process must remove the path of its Unix socket. A
    /// listener that wraps another one passes the call on.
    fn set_owner(&mut self, _ours: bool) {}
}

/// The socket that a hot restart hands to the new process, and the path it is bound to.
///
/// Only listeners on the kernel's sockets can make one.
pub struct HandOver<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) path: Option<&'a BoundPath>,
}

impl fmt::Debug for HandOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver").field("socket", &self.socket).finish_non_exhaustive()
    }
}
