//! The accept loop: ready, accept, call, spawn. Nothing slow happens here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Connection, Peer, Stream};

use super::ConnectionService;
use super::restart::{Passed, RestartError};
use super::shared::{Entered, Shared};
use super::task::{ConnectionTask, panic_text, panicked};
use crate::error::Error;
use crate::listener::{HandOver, Listener};

/// Connections accepted in one turn before open ones get theirs.
const ACCEPTS_A_TURN: usize = 16;

/// One loop over all listeners; it owns the one service, and calls it only when it is ready.
pub(super) struct Accept<S> {
    /// With their numbers, which they keep when others are closed.
    listeners: Vec<(usize, Box<dyn Listener>)>,
    service: S,
    ready: bool,
    /// The listener asked first; it moves on, so that a busy one does not shut out the others.
    first: usize,
    /// Those whose sockets are another process's, by their numbers.
    given_up: Vec<bool>,
    shared: Arc<Shared>,
}

impl<S: ConnectionService> Accept<S> {
    pub(super) fn new(listeners: Vec<Box<dyn Listener>>, service: S, shared: Arc<Shared>) -> Self {
        let listeners = listeners.into_iter().enumerate().collect();
        Self { listeners, service, ready: false, first: 0, given_up: Vec::new(), shared }
    }

    /// Accepts for ever. Ready only with the error of a service that can't be readied any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        for _ in 0..ACCEPTS_A_TURN {
            if let Err(error) = ready!(self.poll_one(cx)) {
                return Poll::Ready(error);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Accepts what already waits, before the listeners close: a connection the kernel has taken is not refused. Ready
    /// when nothing waits, or nothing more can be taken.
    pub(super) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let given_up = &self.given_up;
        let ours = self.listeners.iter_mut().filter(|(number, _)| !is_in(given_up, *number));
        ours.for_each(|(_, listener)| listener.last_call());
        // As many as a backlog of the default size holds, from each; who comes later is refused by the kernel.
        for _ in 0..1024 * self.listeners.len() {
            match self.poll_one(cx) {
                Poll::Ready(Ok(())) => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }

    /// The listening sockets, for a new process to take over; `places` are the endpoints they were bound by.
    pub(super) fn hand_over(&self, places: &[String]) -> Result<Vec<Passed>, RestartError> {
        let mut sockets = Vec::with_capacity(places.len());
        // None is closed yet.
        for ((_, listener), place) in self.listeners.iter().zip(places) {
            let Some(HandOver { socket, path }) = listener.hand_over() else {
                return Err(RestartError::Endpoint { endpoint: place.clone() });
            };
            let path = path.map(|path| (path.absolute().to_owned(), path.id()));
            sockets.push(Passed { place: place.clone(), socket: socket.try_clone_to_owned()?, path });
        }
        Ok(sockets)
    }

    /// Begins to make way for a process that has taken these: what they are bound to is that one's to remove.
    pub(super) fn give_up(&mut self, taken: &[bool]) {
        self.given_up = taken.to_vec();
        self.set_owner(false);
    }

    /// All is this process's again.
    pub(super) fn take_back(&mut self) {
        self.set_owner(true);
        self.given_up.clear();
    }

    fn set_owner(&mut self, ours: bool) {
        self.given_up().for_each(|listener| listener.set_owner(ours));
    }

    fn given_up(&mut self) -> impl Iterator<Item = &mut Box<dyn Listener>> {
        let given_up = &self.given_up;
        self.listeners.iter_mut().filter(|(number, _)| is_in(given_up, *number)).map(|(_, listener)| listener)
    }

    /// Takes nothing more from the sockets that are another process's. What was taken from them may be pending.
    pub(super) fn handed_over(&mut self) {
        self.given_up().for_each(|listener| listener.handed_over());
        let given_up = &self.given_up;
        self.listeners.retain(|(number, listener)| !is_in(given_up, *number) || listener.has_pending());
    }

    /// Closes the listeners, but for those with connections that are to become ready yet; accepts these. Ready when
    /// there are none left, or nothing more can be taken.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.listeners.retain(|(_, listener)| listener.has_pending());
            if self.listeners.is_empty() {
                return Poll::Ready(());
            }
            match self.poll_one(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                // Asked, a listener may have found that what was pending came to nothing.
                Poll::Pending if !self.listeners.iter().any(|(_, listener)| listener.has_pending()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.ready {
            ready!(self.poll_service(cx))?;
            self.ready = true;
        }
        ready!(self.shared.poll_room(cx));
        let (stream, peer, listener) = ready!(self.poll_listeners(cx));
        self.ready = false;
        self.begin(stream, peer, listener);
        Poll::Ready(Ok(()))
    }

    fn poll_service(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match catch_unwind(AssertUnwindSafe(|| self.service.poll_ready(cx))) {
            Ok(poll) => poll.map_err(Error::other),
            Err(panic) => {
                let text = format!("the service panicked in poll_ready: {}", panic_text(&*panic));
                Poll::Ready(Err(Error::other(text)))
            }
        }
    }

    fn poll_listeners(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer, usize)> {
        let n = self.listeners.len();
        for turn in 0..n {
            let i = (self.first + turn) % n;
            let (number, listener) = &mut self.listeners[i];
            if let Poll::Ready((stream, peer)) = listener.poll_accept(cx) {
                self.first = (i + 1) % n;
                return Poll::Ready((stream, peer, *number));
            }
        }
        Poll::Pending
    }

    /// Calls the service and spawns what it returns. `call` only moves data; the work begins in the task.
    fn begin(&mut self, stream: Stream, peer: Peer, listener: usize) {
        let connection = Connection::accepted(stream, peer, listener);
        let entered: Entered = self.shared.enter(&connection);
        match catch_unwind(AssertUnwindSafe(|| self.service.call(connection))) {
            Ok(run) => drop(tokio::spawn(ConnectionTask::new(run, entered))),
            Err(panic) => panicked(&entered, panic),
        }
    }
}

/// Whether a listener is among those that are given up.
fn is_in(given_up: &[bool], number: usize) -> bool {
    given_up.get(number).is_some_and(|given_up| *given_up)
}
