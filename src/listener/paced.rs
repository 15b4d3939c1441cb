//! A source of connections that may fail, made into a listener that does not.

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

use super::accept_error::{Fault, Next, Pace, classify};
use super::{HandOver, Listener};

/// How many descriptors the last call leaves to those who answer; of a small limit a sixteenth.
const SPARE: u64 = 64;

/// What the kernel's listeners have in common.
pub(crate) trait Accept: Send + 'static {
    /// The next connection, or why there is none.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>>;

    /// Takes a connection that waits, asked of the kernel and not of the runtime, which may have yet to learn of it;
    /// `WouldBlock` when none does.
    fn take_waiting(&self) -> io::Result<(Socket, SockAddr)>;

    /// Has the runtime watch a connection that was taken so.
    fn watch(socket: Socket, from: &SockAddr) -> io::Result<(Stream, Peer)>;

    /// The address it is bound to.
    fn local_addr(&self) -> Addr;

    /// What another process needs to take it over.
    fn hand_over(&self) -> HandOver<'_>;

    /// Whether what it is bound to is this process's to remove.
    fn set_owner(&mut self, _ours: bool) {}
}

/// A listener over any [`Accept`]: retries and waits as [`Pace`] says.
///
/// At the last call it takes all that waits, whether or not it can be served now, and closes the socket. So new peers are
/// refused from that moment on, and those that had connected are handed out as they are asked for.
pub(crate) struct Paced<A> {
    /// Until the last call.
    inner: Option<A>,
    local: Addr,
    /// The most that can wait in the kernel's backlog.
    backlog: usize,
    /// Taken at the last call.
    held: VecDeque<(Socket, SockAddr)>,
    pace: Pace,
    log: Limit,
    /// It stays here, not in a future, so that a caller that stops polling does not start the wait over.
    wait: Option<Pin<Box<Sleep>>>,
    /// Why it accepts no more, until somebody has asked.
    failure: Option<io::Error>,
    /// Whether there was no descriptor left, until somebody has asked.
    lacks_descriptors: bool,
    errors: u64,
}

impl<A: Accept> Paced<A> {
    pub(crate) fn new(inner: A, backlog: usize) -> Self {
        let more = |suppressed| event!(WARN, suppressed, "more connections could not be accepted");
        Self {
            local: inner.local_addr(),
            inner: Some(inner),
            backlog,
            held: VecDeque::new(),
            pace: Pace::default(),
            log: Limit::new(Level::WARN, more),
            wait: None,
            failure: None,
            lacks_descriptors: false,
            errors: 0,
        }
    }

    fn log(&self, error: &io::Error) {
        if self.log.pass() {
            let (listener, error) = (self.local.clone(), error.to_string());
            aside!(WARN, %listener, %error, "a connection could not be accepted");
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        if let Some(inner) = &mut self.inner {
            return inner.poll_accept(cx);
        }
        let held = self.held.pop_front();
        // Nobody is to be woken when nothing is left.
        held.map_or(Poll::Pending, |(socket, from)| Poll::Ready(A::watch(socket, &from)))
    }

    /// Takes what waits. Returns the error that kept it from taking all.
    fn hold(&mut self, inner: &A) -> io::Result<()> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let last = limit - SPARE.min(limit / 16);
        // Connections that come meanwhile would keep this from ending; a failed attempt is one of a connection that waited.
        for _ in 0..=self.backlog {
            match inner.take_waiting() {
                Ok((socket, from)) => {
                    // The system gives the lowest number that is free, so all below it are in use.
                    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX);
                    self.held.push_back((socket, from));
                    if number >= last {
                        return Err(io::Error::other(
                            "the last descriptors are kept for the connections that are served",
                        ));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if classify(&error) == Fault::Connection => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<A: Accept> Listener for Paced<A> {
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
            self.lacks_descriptors |= matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            match self.pace.failed(&error) {
                Next::Retry => {}
                Next::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::Wait(duration) => self.wait = Some(Box::pin(sleep(duration))),
            }
            if self.pace.has_just_failed_for_good(&error) {
                self.failure = Some(error);
            }
        }
    }

    fn last_call(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let taken = self.hold(&inner);
        // Closed before anything is said about it.
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
        self.inner.as_ref().map(Accept::hand_over)
    }

    fn set_owner(&mut self, ours: bool) {
        if let Some(inner) = &mut self.inner {
            inner.set_owner(ours);
        }
    }
}
