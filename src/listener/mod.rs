//! Where connections come in: a bound endpoint.

mod accept_error;
pub(crate) mod opened;
mod paced;
pub(crate) mod preamble;
pub(crate) mod proxy;
pub(crate) mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod unix;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Peer, Stream};

pub use self::preamble::{PreambleCounts, PreambleDrop};

use self::unix::BoundPath;

/// Something that connections come in on.
///
/// `tcp:`, `unix:` and `memory:` endpoints bind to listeners of this crate. A foreign transport (vsock, a simulated
/// network, the streams of a QUIC connection) is one implementation away: [`Endpoint::from_listener`] takes it, and
/// [`Stream::from_io`] its streams.
///
/// [`Endpoint::from_listener`]: crate::Endpoint::from_listener
pub trait Listener: Send + 'static {
    /// The next connection.
    ///
    /// It never fails outward: what goes wrong with one connection is that connection's, and what goes wrong with the
    /// listener (no descriptors left, say) is waited out in here, without spinning. It is cancel safe by its form: no
    /// connection is lost when the caller does not poll again, or polls another listener first. It does nothing slow.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)>;

    /// Told once, when a drain begins: from here on only what has already connected is to be taken, and none of it missed.
    /// A listener that may learn of a connection late (by its runtime's readiness, say) looks for itself now. One that can
    /// closes its socket at once, holds what it has taken, and says so by [`has_pending`](Listener::has_pending): it is
    /// asked for as many as can be served, which may take until the drain's deadline.
    fn last_call(&mut self) {}

    /// Whether, after the last call, connections may still come: it has taken some that it can't hand out yet, because
    /// something is to be done before (a handshake, say). As long as there are, the server goes on asking, up to the
    /// drain's deadline; then the listener is dropped.
    fn has_pending(&self) -> bool {
        false
    }

    /// How many those are, as far as it knows: a drain counts those that it could not serve by its deadline.
    fn pending(&self) -> usize {
        usize::from(self.has_pending())
    }

    /// Why it will accept nothing any more, once: its socket is closed, say. It is asked for after
    /// [`poll_accept`](Listener::poll_accept) has had nothing. The server tells it
    /// ([`on_listener_failure`](crate::Server::on_listener_failure)) and goes on to poll the listener, which may recover. A
    /// listener around another one asks that one.
    fn failure(&mut self) -> Option<io::Error> {
        None
    }

    /// Whether since it was last asked it could not take a connection for want of descriptors. It is asked after
    /// [`poll_accept`](Listener::poll_accept) has had nothing. The server then closes the connection that has been silent for
    /// longest before its preamble, if there is one, so that the next try may succeed. A listener around another one asks
    /// that one.
    fn lacks_descriptors(&mut self) -> bool {
        false
    }

    /// Told once, when a hot restart has handed its socket to the new process: from here on nothing more is to be taken
    /// from it, for what comes is the new process's, and what waits as well. There is no last call then. Connections that
    /// were taken before may still come, as long as [`has_pending`](Listener::has_pending) says so. A listener around
    /// another one drops that.
    fn handed_over(&mut self) {}

    /// The address it is bound to, with the port the system chose where 0 was asked for.
    fn local_addr(&self) -> Addr;

    /// What a hot restart hands to the new process, or `None` (which is what it is unless written otherwise) if it can't
    /// be handed on: then the server refuses to be restarted. A listener around another one asks that one.
    fn hand_over(&self) -> Option<HandOver<'_>> {
        None
    }

    /// Told in the course of a hot restart whether what it is bound to (the path of a Unix socket) is this process's to
    /// remove. A listener around another one passes it on.
    fn set_owner(&mut self, _ours: bool) {}
}

/// What a hot restart hands to the new process: a listening socket, and the path it is bound to.
///
/// Only the kernel's listeners make one.
pub struct HandOver<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) path: Option<&'a BoundPath>,
}

impl fmt::Debug for HandOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver").field("socket", &self.socket).finish_non_exhaustive()
    }
}
