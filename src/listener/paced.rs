//! Makes a listener that doesn't fail from a socket whose accepting may fail.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, aside, event};
use ropewalk_middleware::{Addr, Peer, Stream};
use rustix::process::{Resource, getrlimit};
use socket2::{SockAddr, Socket};
use tokio::time::{Sleep, sleep};

use super::accept_error::{Reaction, RetryPace, Scope, classify};
use super::{HandOver, Listener};

/// How many descriptors the last call leaves for the connections that are served; a sixteenth of a
/// small limit.
const SPARE: u64 = 64;

/// Operations that the listeners on kernel sockets have in common.
pub(crate) trait SocketListener: Send + 'static {
    /// The next connection, or the error of accepting it.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>>;

    /// Accepts a waiting connection directly from the kernel, because the runtime may not know of
    /// it yet; `WouldBlock` if no connection waits.
    fn take_waiting(&self) -> io::Result<(Socket, SockAddr)>;

    /// Registers such a connection with the runtime.
    fn watch(socket: Socket, from: &SockAddr) -> io::Result<(Stream, Peer)>;

    /// The address it is bound to.
    fn local_addr(&self) -> Addr;

    /// The data that another process needs to take it over.
    fn hand_over(&self) -> HandOver<'_>;

    /// Sets whether this process has to remove the path that the socket is bound to.
    fn set_owner(&mut self, _ours: bool) {}
}

/// A listener over any [`SocketListener`], which retries and waits as [`RetryPace`] says.
///
/// At the last call it accepts all waiting connections, whether or not they can be served now, and
/// closes the socket. So new peers are refused from that moment on, and the accepted connections
/// are returned as the server asks for them.
pub(crate) struct Paced<A> {
    /// The socket, until the last call.
    inner: Option<A>,
    local: Addr,
    /// The most that can wait in the kernel's backlog.
    backlog: usize,
    /// Connections accepted at the last call.
    held: VecDeque<(Socket, SockAddr)>,
    pace: RetryPace,
    log: Limit,
    /// It stays here, not in a future, so that a caller that stops polling does not start the wait
    /// over.
    wait: Option<Pin<Box<Sleep>>>,
    /// The error for which it accepts no more, until `failure` is called.
    failure: Option<io::Error>,
    /// Whether there was no descriptor left, until `lacks_descriptors` is called.
    lacks_descriptors: bool,
    errors: u64,
}

impl<A: SocketListener> Paced<A> {
    pub(crate) fn new(inner: A, backlog: usize) -> Self {
        let more = |suppressed| event!(WARN, suppressed, "more connections could not be accepted");
        Self {
            local: inner.local_addr(),
            inner: Some(inner),
            backlog,
            held: VecDeque::new(),
            pace: RetryPace::default(),
            log: Limit::new(Level::WARN, more),
            wait: None,
            failure: None,
            lacks_descriptors: false,
            errors: 0,
        }
    }

    fn log(&self, error: &io::Error) {
        if self.log.pass() {
            let listener = self.local.clone();
            let error = error.to_string();
            aside!(WARN, %listener, %error, "a connection could not be accepted");
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        if let Some(inner) = &mut self.inner {
            return inner.poll_accept(cx);
        }
        let held = self.held.pop_front();
        // Without connections it stays pending, and needs no waker.
        held.map_or(Poll::Pending, |(socket, from)| Poll::Ready(A::watch(socket, &from)))
    }

    /// Accepts all waiting connections. Returns the error that prevented it.
    fn hold(&mut self, inner: &A) -> io::Result<()> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let last = limit - SPARE.min(limit / 16);
        // Limited, because connections that arrive meanwhile could keep this from ending. A failed
        // attempt counts as one waiting connection.
        for _ in 0..=self.backlog {
            match inner.take_waiting() {
                Ok((socket, from)) => {
                    // The system returns the lowest free number, so all numbers below it are in
                    // use.
                    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX);
                    self.held.push_back((socket, from));
                    if number >= last {
                        return Err(io::Error::other(
                            "the last descriptors are kept for the connections that are served",
                        ));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if classify(&error) == Scope::Connection => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<A: SocketListener> Listener for Paced<A> {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let error = match ready!(self.poll_inner(cx)) {
                Ok(accepted) => {
                    self.pace.succeeded();
                    return Poll::Ready(accepted);
                }
                Err(error) => error,
            };
            self.log(&error);
            self.errors += 1;
            self.lacks_descriptors |=
                matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            match self.pace.failed(&error) {
                Reaction::Retry => {}
                Reaction::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Reaction::Wait(duration) => self.wait = Some(Box::pin(sleep(duration))),
            }
            if self.pace.has_just_failed_for_good(&error) {
                self.failure = Some(error);
            }
        }
    }

    fn last_call(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let taken = self.hold(&inner);
        // Closed before anything is logged.
        drop(inner);
        self.wait = None;
        if let Err(error) = taken {
            self.log(&error);
        }
    }

    fn has_pending(&self) -> bool {
        !self.held.is_empty()
    }

    fn pending(&self) -> usize {
        self.held.len()
    }

    fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    fn lacks_descriptors(&mut self) -> bool {
        std::mem::take(&mut self.lacks_descriptors)
    }

    fn accept_errors(&self) -> u64 {
        self.errors
    }

    fn local_addr(&self) -> Addr {
        self.local.clone()
    }

    fn hand_over(&self) -> Option<HandOver<'_>> {
        self.inner.as_ref().map(SocketListener::hand_over)
    }

    fn set_owner(&mut self, ours: bool) {
        if let Some(inner) = &mut self.inner {
            inner.set_owner(ours);
        }
    }
}
