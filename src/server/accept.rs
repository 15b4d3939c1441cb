//! The accept loop: ready, accept, call, spawn. Nothing slow happens here.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Peer, Stream};

use super::ConnectionService;
use super::gate::Gate;
use super::restart::{Passed, RestartError};
use crate::error::Error;
use crate::listener::{HandOver, Listener};

/// Connections accepted in one turn before open ones get theirs.
const ACCEPTS_A_TURN: usize = 16;

/// One loop over all listeners of one runtime. It accepts only when the one service is ready.
pub(super) struct Accept<S> {
    /// With the numbers of their endpoints, which they keep when others are closed.
    listeners: Vec<(usize, Box<dyn Listener>)>,
    gate: Arc<Gate<S>>,
    /// Which of the loops at the gate this is.
    number: usize,
    /// Accepted and not yet served: another loop was faster to the gate. Here as good as in the backlog.
    taken: Option<(Stream, Peer, usize)>,
    /// The listener asked first; it moves on, so that a busy one does not shut out the others.
    first: usize,
    /// Those whose sockets are another process's, by their numbers.
    given_up: Vec<usize>,
}

impl<S: ConnectionService> Accept<S> {
    pub(super) fn new(listeners: Vec<(usize, Box<dyn Listener>)>, gate: Arc<Gate<S>>, number: usize) -> Self {
        Self { listeners, gate, number, taken: None, first: 0, given_up: Vec::new() }
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
        let ours = self.listeners.iter_mut().filter(|(number, _)| !given_up.contains(number));
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
        let mut sockets = Vec::with_capacity(self.listeners.len());
        for (number, listener) in &self.listeners {
            let place = &places[*number];
            let Some(HandOver { socket, path }) = listener.hand_over() else {
                return Err(RestartError::Endpoint { endpoint: place.clone() });
            };
            let path = path.map(|path| (path.absolute().to_owned(), path.id()));
            sockets.push(Passed { place: place.clone(), socket: socket.try_clone_to_owned()?, path });
        }
        Ok(sockets)
    }

    /// Which endpoints the sockets are of that were handed over: those that were taken, in their order.
    pub(super) fn taken(&self, taken: &[bool]) -> Vec<usize> {
        let handed = self.listeners.iter().zip(taken);
        handed.filter(|(_, taken)| **taken).map(|((number, _), _)| *number).collect()
    }

    /// Begins to make way for a process that has taken these endpoints: what they are bound to is that one's to remove.
    pub(super) fn give_up(&mut self, endpoints: Vec<usize>) {
        self.given_up = endpoints;
        self.given_up().for_each(|listener| listener.set_owner(false));
    }

    /// All is this process's, from the start or again.
    pub(super) fn take_back(&mut self) {
        self.given_up.clear();
        self.listeners.iter_mut().for_each(|(_, listener)| listener.set_owner(true));
    }

    fn given_up(&mut self) -> impl Iterator<Item = &mut Box<dyn Listener>> {
        let given_up = &self.given_up;
        self.listeners.iter_mut().filter(|(number, _)| given_up.contains(number)).map(|(_, listener)| listener)
    }

    /// Takes nothing more from the sockets that are another process's. What was taken from them may be pending.
    pub(super) fn handed_over(&mut self) {
        self.given_up().for_each(|listener| listener.handed_over());
        let given_up = &self.given_up;
        self.listeners.retain(|(number, listener)| !given_up.contains(number) || listener.has_pending());
    }

    /// Closes the listeners, but for those with connections that are to become ready yet; accepts these. Ready when
    /// there are none left, or nothing more can be taken.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.listeners.retain(|(_, listener)| listener.has_pending());
            if self.listeners.is_empty() && self.taken.is_none() {
                return Poll::Ready(());
            }
            match self.poll_one(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                // Asked, a listener may have found that what was pending came to nothing.
                Poll::Pending
                    if self.taken.is_none() && !self.listeners.iter().any(|(_, listener)| listener.has_pending()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.taken.is_none() {
            // Locked no longer than it takes to look: accepting is a system call.
            drop(ready!(self.gate.poll_open(self.number, cx))?);
            self.taken = Some(ready!(self.poll_listeners(cx)));
        }
        let gate = ready!(self.gate.poll_open(self.number, cx))?;
        if let Some((stream, peer, listener)) = self.taken.take() {
            gate.enter(stream, peer, listener);
        }
        Poll::Ready(Ok(()))
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
}
