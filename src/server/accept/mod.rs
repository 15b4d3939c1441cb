//! The accept loop: ready, accept, call, spawn (`gate.rs` calls and spawns). Nothing slow happens
//! here.

pub(super) mod all;
pub(super) mod front;
pub(super) mod gate;
mod lobby;
mod shares;
mod task;
mod workers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Error, Peer, Stream};

use self::gate::{AnyGate, Door, free_descriptor};
use self::lobby::{Accepted, Lobby};
use super::books::shared::Shared;
use super::restart::{ListedEndpoint, Passed, RestartError};
use super::run::command::Change;
use crate::listener::{HandOver, Listener};

/// Connections accepted in one turn, after which the open ones get theirs.
const ACCEPTS_A_TURN: usize = 16;

/// The most connections that a drain holds until they can be served: the largest backlog that a
/// socket can have.
const MOST_HELD: usize = 65_536;

/// One loop over the listeners that one service has in one runtime.
pub(super) struct Accept {
    listeners: Vec<Listening>,
    gate: Arc<dyn AnyGate>,
    /// Whether the service is made ready before a connection is accepted. A server's only service
    /// is, so that no connection is accepted while it isn't ready. One of several services is made
    /// ready when a connection has been accepted: otherwise an idle one would keep a permit of a
    /// layer that they share.
    ahead: bool,
    shared: Arc<Shared>,
    /// The number of this loop at the gate.
    number: usize,
    /// Connections that are accepted and not served yet: another loop was faster at the gate, or
    /// the server is full.
    lobby: Lobby,
    /// In a drain, the connections that waited in the backlogs. They come after those in the lobby.
    held: VecDeque<Accepted>,
    /// The listener asked first; it moves on, so that a busy one does not shut out the others.
    first: usize,
    /// The listeners have had their last call. From then on no connection is aborted to make room.
    closing: bool,
}

/// A listener of a loop.
pub(super) struct Listening {
    /// The number of its endpoint.
    endpoint: usize,
    /// The number of its socket among all of the server's, in the order in which they are handed
    /// over.
    socket: usize,
    listener: Box<dyn Listener>,
    /// How many of its accept errors were counted so far.
    errors: u64,
    /// Whether another process has taken its socket.
    given_up: bool,
    /// No further connections are accepted from its socket for now. Those that were accepted before
    /// are served.
    paused: bool,
    /// The endpoint was removed: the connections it has accepted are served, then it is dropped.
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
    /// `loops` is the number of accept loops of all gates and runtimes.
    pub(super) fn new(
        listeners: Vec<Listening>,
        gate: Arc<dyn AnyGate>,
        number: usize,
        loops: usize,
        ahead: bool,
        shared: &Arc<Shared>,
    ) -> Self {
        let lobby = Lobby::new(loops, shared);
        let shared = Arc::clone(shared);
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

    /// Accepts for ever. Ready only with the error of a service that can't be made ready any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        for _ in 0..ACCEPTS_A_TURN {
            if let Err(error) = ready!(self.poll_one(cx)) {
                return Poll::Ready(error);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Closes every listener. Connections in the backlog are accepted first, unless the socket was
    /// given up: a connection that the kernel has accepted is not refused. As many as possible are
    /// served at once; the others are left to [`poll_pending`](Self::poll_pending).
    pub(super) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closing = true;
        // A removed listener has had its last call already.
        for Listening { listener, given_up, paused, .. } in
            self.listeners.iter_mut().filter(|listening| !listening.removed)
        {
            // Connections in the backlog of a paused endpoint are served as well.
            *paused = false;
            if *given_up { listener.handed_over() } else { listener.last_call() }
        }
        // A socket that was given up may have connections that were accepted before and are still
        // in their preambles.
        self.listeners.retain(|listening| !listening.given_up || listening.listener.has_pending());
        self.hold(cx);
        self.listeners.retain(|listening| listening.listener.has_pending());
        while self.next_waits() && matches!(self.poll_one(cx), Poll::Ready(Ok(()))) {}
        Poll::Ready(())
    }

    /// Duplicates of the listening sockets with their numbers, for a new process. `places` are the
    /// endpoints by number.
    pub(super) fn hand_over(
        &self,
        places: &[ListedEndpoint],
    ) -> Result<Vec<(usize, Passed)>, RestartError> {
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
                Passed {
                    number: *endpoint,
                    place: place.clone(),
                    socket: socket.try_clone_to_owned()?,
                    path,
                },
            ));
        }
        Ok(sockets)
    }

    /// Gives up the sockets that a new process has taken, by number: that process removes their
    /// paths from now on.
    pub(super) fn give_up(&mut self, taken: &[bool]) {
        for Listening { socket, listener, given_up, .. } in &mut self.listeners {
            *given_up = taken.get(*socket).is_some_and(|taken| *taken);
            listener.set_owner(!*given_up);
        }
    }

    /// Serves the connections that were accepted before the listeners closed, as slots become free.
    /// Ready when none of them is left, or when the service can't be made ready any more. It waits
    /// for a service that isn't ready even if no connection is open: something else may make it
    /// ready.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ACCEPTS_A_TURN {
            self.hold(cx);
            // `hold` has polled the listeners, and pending preambles may have failed.
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

    /// Aborts the connections that were not served. Their peers see a reset, as from the kernel for
    /// a closed backlog.
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

    /// Changes an endpoint, if this loop has listeners of it.
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

    /// In a drain, accepts all connections that the listeners have, whether or not they can be
    /// served now.
    fn hold(&mut self, cx: &mut Context<'_>) {
        while self.closing && self.held.len() < MOST_HELD {
            let Poll::Ready(connection) = self.poll_listeners(cx) else { return };
            self.held.push_back(connection);
        }
    }

    /// Whether a connection waits in the lobby; moves a held one there if it is empty.
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

    /// Called when the server is full. Accepts some connections from the backlog, and makes room
    /// for those that have a right to it. Always pending: the task is woken when there is room,
    /// when another connection arrives or when it is time to look again.
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
