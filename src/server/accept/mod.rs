//! The accept loop: ready, accept, call, spawn. Nothing slow happens here.

pub(super) mod all;
pub(super) mod front;
pub(super) mod gate;
mod lobby;
mod task;
mod workers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Error, Peer, Stream};

use self::gate::{AnyGate, Door, free_descriptor};
use self::lobby::{Accepted, Lobby};
use super::books::shared::Shared;
use super::restart::{Passed, Place, RestartError};
use super::run::command::Change;
use crate::listener::{HandOver, Listener};

/// Connections accepted in one turn before open ones get theirs.
const ACCEPTS_A_TURN: usize = 16;

/// The most connections a drain holds until they can be served: all that the largest backlog of a
/// socket had.
const MOST_HELD: usize = 65_536;

/// One loop over the listeners that one service has in one runtime.
pub(super) struct Accept {
    listeners: Vec<Listening>,
    gate: Arc<dyn AnyGate>,
    /// The only service of the server is made ready ahead of a connection, so nothing is accepted
    /// while it isn't ready. One of several is made ready when a connection is there: an idle one
    /// would keep a permit of a layer that they share.
    ahead: bool,
    shared: Arc<Shared>,
    /// Which of the loops at the gate this is.
    number: usize,
    /// Accepted and not yet served: another loop was faster to the gate, or the server is full.
    lobby: Lobby,
    /// In a drain all that waited, behind those in the lobby.
    held: VecDeque<Accepted>,
    /// The listener asked first; it moves on, so that a busy one does not shut out the others.
    first: usize,
    /// The last call was made: all that waited is held here, and nobody is asked to make room for
    /// it.
    closing: bool,
}

/// A listener of a loop.
pub(super) struct Listening {
    /// The number of its endpoint.
    endpoint: usize,
    /// The number of its socket, in the order in which all of the server's are handed over.
    socket: usize,
    listener: Box<dyn Listener>,
    /// How many of its errors are counted.
    errors: u64,
    /// Whether its socket is another process's.
    given_up: bool,
    /// It isn't asked for more connections than it has taken already.
    paused: bool,
    /// It is removed: what it has taken is served, and then it is dropped.
    removed: bool,
}

impl Listening {
    pub(super) fn new(endpoint: usize, socket: usize, listener: Box<dyn Listener>) -> Self {
        Self {
            endpoint,
            socket,
            listener,
            errors: 0,
            given_up: false,
            paused: false,
            removed: false,
        }
    }
}

impl Accept {
    /// `loops` counts those of all gates and runtimes.
    pub(super) fn new(
        listeners: Vec<Listening>,
        gate: Arc<dyn AnyGate>,
        number: usize,
        loops: usize,
        ahead: bool,
        shared: &Arc<Shared>,
    ) -> Self {
        let (lobby, shared) = (Lobby::new(loops, shared), Arc::clone(shared));
        Self {
            listeners,
            gate,
            ahead,
            shared,
            number,
            lobby,
            held: VecDeque::new(),
            first: 0,
            closing: false,
        }
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

    /// Closes every listener. What waits is taken before, unless the socket is given up: a
    /// connection the kernel has taken is not refused. Of what was taken, as many are served as can
    /// be at once; the others are for [`poll_pending`](Self::poll_pending).
    pub(super) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closing = true;
        // A removed one has had its last call.
        for Listening { listener, given_up, paused, .. } in
            self.listeners.iter_mut().filter(|listening| !listening.removed)
        {
            // What waits on a paused endpoint is served as well.
            *paused = false;
            if *given_up { listener.handed_over() } else { listener.last_call() }
        }
        // What was taken from a socket before it was given up may be pending.
        self.listeners.retain(|listening| !listening.given_up || listening.listener.has_pending());
        self.hold(cx);
        self.listeners.retain(|listening| listening.listener.has_pending());
        while self.next_waits() && matches!(self.poll_one(cx), Poll::Ready(Ok(()))) {}
        Poll::Ready(())
    }

    /// The listening sockets by their numbers, for a new process to take over; `places` are the
    /// endpoints they were bound by.
    pub(super) fn hand_over(&self, places: &[Place]) -> Result<Vec<(usize, Passed)>, RestartError> {
        let mut sockets = Vec::with_capacity(self.listeners.len());
        let open = self.listeners.iter().filter(|listening| !listening.removed);
        for Listening { endpoint, socket: number, listener, .. } in open {
            let place = &places[*endpoint];
            let Some(HandOver { socket, path }) = listener.hand_over() else {
                return Err(RestartError::Endpoint { endpoint: place.endpoint.clone() });
            };
            let path = path.map(|path| (path.absolute().to_owned(), path.id()));
            sockets.push((
                *number,
                Passed { place: place.clone(), socket: socket.try_clone_to_owned()?, path },
            ));
        }
        Ok(sockets)
    }

    /// Begins to make way for a process that has taken these of the server's sockets, if any: what
    /// they are bound to is that one's to remove.
    pub(super) fn give_up(&mut self, taken: &[bool]) {
        for Listening { socket, listener, given_up, .. } in &mut self.listeners {
            *given_up = taken.get(*socket).is_some_and(|taken| *taken);
            listener.set_owner(!*given_up);
        }
    }

    /// Serves what was taken before the listeners closed, as soon as it can be. Ready when nothing
    /// is left, or when the service can't be readied any more. One that is not ready is waited for,
    /// even if no connection is open whose end could change that: something else may.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ACCEPTS_A_TURN {
            self.hold(cx);
            // Asked, a listener may have found that what was pending came to nothing.
            self.listeners.retain(|listening| listening.listener.has_pending());
            if !self.next_waits() {
                return if self.listeners.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            }
            if ready!(self.poll_one(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives up what was not served. Its peers see a reset, as they would have from the kernel.
    pub(super) fn close(&mut self) {
        let pending: usize =
            self.listeners.iter().map(|listening| listening.listener.pending()).sum();
        self.shared.outcome.unserved(self.lobby.len() + self.held.len() + pending);
        self.listeners.clear();
        while self.next_waits() {
            if let Some((mut stream, ..)) = self.lobby.next() {
                stream.abort();
            }
        }
    }

    /// Adds listeners of a new endpoint.
    pub(super) fn add(&mut self, listeners: impl IntoIterator<Item = Listening>) {
        self.listeners.extend(listeners);
    }

    /// Changes an endpoint, if it is one of these.
    pub(super) fn change(&mut self, number: usize, change: Change) {
        for listening in self.listeners.iter_mut().filter(|listening| listening.endpoint == number)
        {
            match change {
                Change::Remove => {
                    listening.listener.last_call();
                    listening.removed = true;
                }
                Change::Pause => listening.paused = true,
                Change::Resume => listening.paused = false,
            }
        }
        self.drop_removed();
    }

    fn drop_removed(&mut self) {
        self.listeners.retain(|listening| !listening.removed || listening.listener.has_pending());
    }

    /// The numbers of the sockets.
    pub(super) fn sockets(&self) -> impl Iterator<Item = usize> {
        self.listeners
            .iter()
            .filter(|listening| !listening.removed)
            .map(|listening| listening.socket)
    }

    /// Takes what the listeners have, whether or not it can be served now.
    fn hold(&mut self, cx: &mut Context<'_>) {
        while self.closing && self.held.len() < MOST_HELD {
            let Poll::Ready(connection) = self.poll_listeners(cx) else { return };
            self.held.push_back(connection);
        }
    }

    /// Whether one waits, in the lobby now if it was held.
    fn next_waits(&mut self) -> bool {
        if self.lobby.is_empty()
            && let Some(connection) = self.held.pop_front()
        {
            self.lobby.push(connection);
        }
        !self.lobby.is_empty()
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if !self.ahead && self.lobby.is_empty() {
                let accepted = ready!(self.poll_listeners(cx));
                self.lobby.push(accepted);
            }
            match ready!(self.gate.poll_enter(self.number, &mut self.lobby, cx))? {
                Door::Passed => return Poll::Ready(Ok(())),
                Door::Full if self.closing || !self.shared.makes_room() => return Poll::Pending,
                Door::Full => return self.poll_full(cx),
                Door::Open => {
                    let accepted = ready!(self.poll_listeners(cx));
                    self.lobby.push(accepted);
                }
            }
        }
    }

    /// The server is full. Takes some of those that wait, and has room made for those who have a
    /// right to it. Always pending: it is woken when there is room, when another one comes or when
    /// it is time to look again.
    fn poll_full<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        for _ in 0..ACCEPTS_A_TURN {
            let gate = &self.gate;
            if !self.lobby.make_room(|peer| gate.make_room(peer)) {
                break;
            }
            if !self.lobby.has_space() {
                return self.lobby.poll_time(cx);
            }
            let Poll::Ready(accepted) = self.poll_listeners(cx) else {
                return self.lobby.poll_time(cx);
            };
            self.lobby.push(accepted);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_listeners(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer, usize)> {
        if self.listeners.iter().any(|listening| listening.removed) {
            self.drop_removed();
        }
        let n = self.listeners.len();
        for turn in 0..n {
            let i = (self.first + turn) % n;
            let Listening { endpoint, listener, errors, paused, removed, .. } =
                &mut self.listeners[i];
            let rests = *paused && !*removed;
            let next = if rests { listener.poll_pending(cx) } else { listener.poll_accept(cx) };
            if let Poll::Ready((stream, peer)) = next {
                self.first = (i + 1) % n;
                return Poll::Ready((stream, peer, *endpoint));
            }
            if rests {
                continue;
            }
            if let Some(error) = listener.failure() {
                self.shared.incidents.listener_failed(&listener.local_addr(), &error);
            }
            let failed = listener.accept_errors();
            if failed > *errors {
                self.shared.count_accept_errors(*endpoint, failed - *errors);
                *errors = failed;
            }
            if listener.lacks_descriptors() {
                free_descriptor(&*self.gate, &self.shared);
            }
        }
        Poll::Pending
    }
}

impl Drop for Accept {
    fn drop(&mut self) {
        self.close();
    }
}
