//! What the accept loop, the connections and the handle of one server share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use ropewalk_middleware::crowd::Choice;
use ropewalk_middleware::{Addr, CloseReason, Closing, Connection, MakeRoom, Peer};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::counts::Counts;
use super::incidents::Incidents;
use super::log::Log;
use super::max::MaxConnections;
use super::registry::{Place, Registry};
use super::table::Endpoints;
use super::{Books, MadeRoom};
use crate::listener::preamble::Preambles;
use crate::server::budget::Memory;
use crate::server::drain::report::Outcome;
use crate::server::restart::RestartError;
use crate::server::run::command::Control;
use crate::server::run::reload::Reloads;
use crate::wire::after;

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Phase {
    /// Accepting, or about to.
    Running,
    /// No more accepting; what is left has until then.
    Draining(Instant),
    /// What is left is aborted now.
    Stopping,
    /// What is left will not go: its threads are blocked, and nobody waits for it any more.
    Abandoned,
    /// Over.
    Ended,
}

/// One server's state.
#[derive(Debug)]
pub(in crate::server) struct Shared {
    books: Mutex<Books>,
    /// The rules by which connections make room when it is full, if they do.
    make_room: Option<MakeRoom>,
    pub(in crate::server) registry: Registry,
    /// Where the server runs, once it does.
    pub(in crate::server) runtime: OnceLock<Handle>,
    pub(in crate::server) memory: Memory,
    max: MaxConnections,
    /// Wakes the accept loops when there is room again: one of each service.
    room: Box<[AtomicWaker]>,
    /// Told when the last connection has gone.
    idle: Notify,
    pub(in crate::server) phase: watch::Sender<Phase>,
    pub(in crate::server) addresses: OnceLock<Vec<Addr>>,
    pub(in crate::server) endpoints: Endpoints,
    pub(in crate::server) control: Control,
    pub(in crate::server) preambles: Preambles,
    pub(in crate::server) reloads: Reloads,
    pub(in crate::server) restarts: watch::Sender<Restarts>,
    /// Another process has taken over.
    succeeded: AtomicBool,
    log: Log,
    pub(in crate::server) outcome: Outcome,
    pub(in crate::server) incidents: Incidents,
}

/// The restarts of a server: how many were asked for and how many are done; at most one is under
/// way.
#[derive(Debug)]
pub(in crate::server) struct Restarts {
    enabled: bool,
    asked: u64,
    done: u64,
    /// How the last one ended.
    outcome: Result<u32, RestartError>,
}

impl Restarts {
    /// Whether one was asked for that is not done.
    pub(in crate::server) fn is_wanted(&self) -> bool {
        self.asked > self.done
    }
}

impl Shared {
    pub(in crate::server) fn new(
        max: MaxConnections,
        make_room: Option<MakeRoom>,
        preambles: usize,
        memory: usize,
        restartable: bool,
        services: usize,
        reloads: Reloads,
    ) -> Arc<Self> {
        let restarts = Restarts {
            enabled: restartable,
            asked: 0,
            done: 0,
            outcome: Err(RestartError::NotServing),
        };
        Arc::new_cyclic(|server| Self {
            books: Mutex::default(),
            make_room,
            registry: Registry::default(),
            runtime: OnceLock::new(),
            memory: Memory::new(memory, Waker::from(Arc::new(Owner(Weak::clone(server))))),
            max,
            room: (0..services).map(|_| AtomicWaker::new()).collect(),
            idle: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            addresses: OnceLock::new(),
            endpoints: Endpoints::default(),
            control: Control::default(),
            preambles: Preambles::new(preambles),
            reloads,
            restarts: watch::Sender::new(restarts),
            succeeded: AtomicBool::new(false),
            log: Log::default(),
            outcome: Outcome::default(),
            incidents: Incidents::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
        // No user code runs under it; what it guards is whole whatever panicked.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::server) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    pub(in crate::server) fn max(&self) -> usize {
        self.max.get()
    }

    pub(in crate::server) fn set_max(&self, max: usize) {
        self.max.set(max);
        self.wake_loops();
    }

    /// There are endpoints with preambles from here on, for which descriptors are left.
    pub(in crate::server) fn leave_room_for_preambles(&self) {
        self.max.leave_room_for_preambles();
    }

    /// Whether there is no room for one more connection: for one that room was made for, or for any
    /// other.
    fn is_full(&self, promised: bool) -> bool {
        self.lock().is_full(self.max(), promised)
    }

    /// Ready when one more connection may be accepted. Only the gates ask, each with one waker for
    /// all accept loops.
    pub(in crate::server) fn poll_room(
        &self,
        service: usize,
        promised: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.is_full(promised) {
            return Poll::Ready(());
        }
        self.room[service].register(cx.waker());
        if self.is_full(promised) { Poll::Pending } else { Poll::Ready(()) }
    }

    fn wake_loops(&self) {
        self.room.iter().for_each(AtomicWaker::wake);
    }

    /// Whether connections make room for others when the server is full.
    pub(in crate::server) fn makes_room(&self) -> bool {
        self.make_room.is_some()
    }

    /// Aborts a connection for one of this peer's that waits, if there is one to abort. Then the
    /// room is promised to it. For the gate, behind which no connection is half accepted.
    pub(in crate::server) fn make_room(&self, newcomer: &Peer) -> MadeRoom {
        let Some(rules) = &self.make_room else { return MadeRoom::No(None) };
        let choice = self.lock().make_room(self.max(), newcomer, rules, &self.registry);
        match choice {
            Choice::Abort(closing, reason) => {
                // Not under the lock: it runs a waker.
                closing.abort_for(reason);
                MadeRoom::Yes
            }
            Choice::Nobody(next) => MadeRoom::No(next),
            Choice::Undecided => MadeRoom::Undecided,
        }
    }

    /// Room that was made for this peer is taken by now, or not wanted any more.
    pub(in crate::server) fn keep_promise(&self, newcomer: &Peer) {
        self.lock().keep_promise(newcomer);
        self.wake_loops();
    }

    /// A connection is closed that waited while there was no room.
    pub(in crate::server) fn turn_away(&self, connection: Connection) {
        let mut books = self.lock();
        books.counts.accept();
        books.counts.close(CloseReason::NoRoom);
        let tally = books.tally(connection.listener());
        tally.counts.accept();
        tally.counts.close(CloseReason::NoRoom);
        drop(books);
        connection.closing().set_reason(CloseReason::NoRoom);
        connection.abort();
    }

    /// A connection was accepted.
    pub(in crate::server) fn enter(self: &Arc<Self>, connection: &Connection) -> Entered {
        let closing = connection.closing();
        self.lock().enter(&closing);
        Entered { place: self.registry.add(closing.clone()), closing, server: Arc::clone(self) }
    }

    /// Asks every connection, and every one that may still come, to finish.
    pub(in crate::server) fn drain_all(&self) {
        self.registry.drain_all(self.has_successor());
    }

    pub(in crate::server) fn abort_all(&self) {
        self.registry.abort_all();
    }

    /// A drain under way ends then at the latest.
    pub(in crate::server) fn hasten_drain(&self, within: Duration) {
        let latest = after(Instant::now(), within);
        self.phase.send_if_modified(|phase| match phase {
            Phase::Draining(deadline) if *deadline > latest => {
                *deadline = latest;
                true
            }
            _ => false,
        });
    }

    pub(in crate::server) fn begin_drain(&self, within: Duration) {
        let deadline = after(Instant::now(), within);
        self.phase.send_if_modified(|phase| match phase {
            Phase::Running | Phase::Draining(_) => {
                self.outcome.begin(|| self.counts());
                *phase = Phase::Draining(deadline);
                true
            }
            Phase::Stopping | Phase::Abandoned | Phase::Ended => false,
        });
    }

    pub(in crate::server) fn stop(&self) {
        self.phase.send_if_modified(|phase| {
            let running = matches!(phase, Phase::Running | Phase::Draining(_));
            if running {
                self.outcome.begin(|| self.counts());
                *phase = Phase::Stopping;
            }
            running
        });
    }

    /// Gives up on what is left.
    pub(in crate::server) fn abandon(&self) {
        self.phase.send_if_modified(|phase| {
            let stopping = *phase == Phase::Stopping;
            if stopping {
                *phase = Phase::Abandoned;
            }
            stopping
        });
    }

    /// The server is over, or its future is dropped before that.
    pub(in crate::server) fn end(&self, dropped: bool) {
        self.phase.send_if_modified(|phase| {
            let over = *phase == Phase::Ended;
            if dropped && !over {
                self.outcome.drop();
            }
            *phase = Phase::Ended;
            !over
        });
    }

    /// Another process has taken over: the listeners are closed without a last look, and who has
    /// just connected is given time.
    pub(in crate::server) fn succeed(&self) {
        self.succeeded.store(true, Ordering::Release);
    }

    pub(in crate::server) fn has_successor(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }

    /// Asks for a restart, unless one is under way. Returns its number.
    pub(in crate::server) fn ask_restart(&self) -> Result<u64, RestartError> {
        if *self.phase.borrow() != Phase::Running {
            return Err(RestartError::NotServing);
        }
        let mut number = Err(RestartError::NotEnabled);
        self.restarts.send_if_modified(|restarts| {
            let ask = restarts.enabled && !restarts.is_wanted();
            if ask {
                restarts.asked += 1;
            }
            if restarts.enabled {
                number = Ok(restarts.asked);
            }
            ask
        });
        number
    }

    /// The restart under way is done.
    pub(in crate::server) fn restarted(&self, outcome: Result<u32, RestartError>) {
        self.restarts.send_modify(|restarts| {
            restarts.done = restarts.asked;
            restarts.outcome = outcome;
        });
    }

    /// Restarts, or waits for the restart that is under way. Returns the number of the new process.
    pub(in crate::server) async fn restart(&self) -> Result<u32, RestartError> {
        let (mut restarts, mut phase) = (self.restarts.subscribe(), self.phase.subscribe());
        let number = self.ask_restart()?;
        // The senders live as long as we do. What is told is asked in this order: a restart that is
        // done has ended the server as well.
        tokio::select! {
            biased;
            _ = restarts.wait_for(|restarts| restarts.done >= number) => {}
            _ = phase.wait_for(|phase| *phase != Phase::Running) => {}
        }
        let restarts = self.restarts.borrow();
        if restarts.done >= number {
            restarts.outcome.clone()
        } else {
            Err(RestartError::NotServing)
        }
    }

    /// Waits until no connection is left.
    pub(in crate::server) async fn wait_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().counts.active() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn leave(&self, place: Place, closing: &Closing, reason: CloseReason) {
        let mut books = self.lock();
        // Under the lock, so that a sum finds it in exactly one of the two. Its task holds another
        // handle on it.
        self.registry.remove(place);
        let scattered = books.leave(closing, reason, self.max());
        let left = books.counts.active();
        drop(books);
        drop(scattered);
        self.wake_loops();
        if left == 0 {
            // Kept for the next caller, so the last one is never missed.
            self.idle.notify_one();
        }
    }
}

/// Woken when a mark is passed.
struct Owner(Weak<Shared>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.memory.look(&shared.registry, false);
        }
    }
}

/// An open connection's entry in the books; dropping it closes the entry with the connection's
/// reason.
#[derive(Debug)]
pub(in crate::server) struct Entered {
    place: Place,
    pub(in crate::server) closing: Closing,
    server: Arc<Shared>,
}

impl Entered {
    /// The limits of the server's log.
    pub(in crate::server) fn log(&self) -> &Log {
        &self.server.log
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // A task dropped with its runtime has no reason yet: it was cut off.
        let reason = self.closing.set_reason(CloseReason::Aborted);
        self.server.leave(self.place, &self.closing, reason);
    }
}
