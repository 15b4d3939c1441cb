//! The state of one server, shared by its accept loops, connections and handles.

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
use super::deadlines::Deadlines;
use super::incidents::Incidents;
use super::log::LogLimits;
use super::max::MaxConnections;
use super::registry::{Registry, RegistrySlot};
use super::table::Endpoints;
use super::{Books, MadeRoom};
use crate::listener::preamble::Preambles;
use crate::server::budget::Memory;
use crate::server::drain::report::DrainRecord;
use crate::server::restart::{Beside, GivenUp, RestartError};
use crate::server::run::command::Control;
use crate::server::run::reload::Reloads;
use crate::wire::after;

/// The phase of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Phase {
    /// Accepting, or about to.
    Running,
    /// No more connections are accepted; the open ones have until this instant.
    Draining(Instant),
    /// The open connections are aborted.
    Stopping,
    /// Some connections stay because their threads are blocked, and the server no longer waits for
    /// them.
    Abandoned,
    /// The server has ended.
    Ended,
}

/// One server's state.
#[derive(Debug)]
pub(in crate::server) struct Shared {
    books: Mutex<Books>,
    /// The rules by which connections make room when it is full; `None` if they don't.
    make_room: Option<MakeRoom>,
    pub(in crate::server) registry: Registry,
    pub(in crate::server) deadlines: Deadlines,
    /// The runtime on which the server runs; set when it begins to accept.
    pub(in crate::server) runtime: OnceLock<Handle>,
    pub(in crate::server) memory: Memory,
    max: MaxConnections,
    /// The wakers of the gates, one for each service, woken when there is room again.
    room: Box<[AtomicWaker]>,
    /// Notified when the last connection is gone.
    idle: Notify,
    pub(in crate::server) phase: watch::Sender<Phase>,
    pub(in crate::server) addresses: OnceLock<Vec<Addr>>,
    pub(in crate::server) endpoints: Endpoints,
    pub(in crate::server) control: Control,
    pub(in crate::server) preambles: Preambles,
    pub(in crate::server) reloads: Reloads,
    pub(in crate::server) restarts: watch::Sender<Restarts>,
    /// A new process has taken over.
    succeeded: AtomicBool,
    pub(in crate::server) beside: Beside,
    pub(in crate::server) given_up: GivenUp,
    pub(super) log: LogLimits,
    pub(in crate::server) outcome: DrainRecord,
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
    /// Whether a restart was requested that is not done.
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
            deadlines: Deadlines::default(),
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
            restarts: watch::Sender::new(restarts),
            succeeded: AtomicBool::new(false),
            beside: Beside::new(reloads.clone()),
            reloads,
            given_up: GivenUp::new(),
            log: LogLimits::default(),
            outcome: DrainRecord::default(),
            incidents: Incidents::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
        // No user code runs under this lock, so its data is consistent even after a panic.
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

    /// Notes that there are endpoints with preambles from now on, for which descriptors are left.
    pub(in crate::server) fn leave_room_for_preambles(&self) {
        self.max.leave_room_for_preambles();
    }

    /// Whether the server is full, for a connection that was promised room or for any other.
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

    /// Aborts a connection to make room for a waiting one of this peer, if the rules find one. The
    /// room is then promised to the peer. Only the gate calls this, under its lock, so that no
    /// connection is half accepted.
    pub(in crate::server) fn make_room(&self, newcomer: &Peer) -> MadeRoom {
        let Some(rules) = &self.make_room else { return MadeRoom::No(None) };
        let choice = self.lock().make_room(self.max(), newcomer, rules, &self.registry);
        match choice {
            Choice::Abort(closing, reason) => {
                // Not under the lock, because it wakes a task.
                closing.abort_for(reason);
                MadeRoom::Yes
            }
            Choice::Nobody(next) => MadeRoom::No(next),
            Choice::Undecided => MadeRoom::Undecided,
        }
    }

    /// Removes a promise to this peer: the slot is taken, or not wanted any more.
    pub(in crate::server) fn keep_promise(&self, newcomer: &Peer) {
        self.lock().keep_promise(newcomer);
        self.wake_loops();
    }

    /// Closes a connection that waited while the server was full. It counts as accepted and closed.
    pub(in crate::server) fn turn_away(&self, connection: Connection) {
        let mut books = self.lock();
        books.counts.accept();
        books.counts.close(CloseReason::NoRoom, false);
        let tally = books.tally(connection.listener());
        tally.counts.accept();
        tally.counts.close(CloseReason::NoRoom, false);
        drop(books);
        connection.closing().set_reason(CloseReason::NoRoom);
        connection.abort();
    }

    /// Drains all connections, also those that are accepted later.
    pub(in crate::server) fn drain_all(&self) {
        self.registry.drain_all(self.has_successor());
    }

    pub(in crate::server) fn abort_all(&self) {
        self.registry.abort_all();
    }

    /// Shortens a drain that is under way to at most this time from now.
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

    /// Gives up waiting for the connections that are left.
    pub(in crate::server) fn abandon(&self) {
        self.phase.send_if_modified(|phase| {
            let stopping = *phase == Phase::Stopping;
            if stopping {
                *phase = Phase::Abandoned;
            }
            stopping
        });
    }

    /// Ends the server. `dropped` means that its future was dropped; that counts only if it had not
    /// ended before.
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

    /// A new process has taken over: the listeners are closed without accepting their backlogs, and
    /// connections that have just been made get time for their first bytes.
    pub(in crate::server) fn succeed(&self) {
        self.succeeded.store(true, Ordering::Release);
    }

    pub(in crate::server) fn has_successor(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }

    /// Requests a restart, unless one is under way. Returns the number of the one under way then.
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

    /// Records the outcome of the restart under way.
    pub(in crate::server) fn restarted(&self, outcome: Result<u32, RestartError>) {
        self.restarts.send_modify(|restarts| {
            restarts.done = restarts.asked;
            restarts.outcome = outcome;
        });
    }

    /// Restarts, or waits for the restart that is under way. Returns the process ID of the new
    /// process.
    pub(in crate::server) async fn restart(&self) -> Result<u32, RestartError> {
        let mut restarts = self.restarts.subscribe();
        let mut phase = self.phase.subscribe();
        let number = self.ask_restart()?;
        // `self` owns the senders, so they are not closed. The restart is checked first: one that
        // succeeded has also ended the `Running` phase.
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

    pub(super) fn leave(&self, place: RegistrySlot, closing: &Closing, reason: CloseReason) {
        let mut books = self.lock();
        // Under the lock, so that a sum over open and closed connections counts it exactly once.
        // Its task holds another handle, so no connection is dropped under the lock.
        self.registry.remove(place);
        let scattered = books.leave(closing, reason, self.max());
        let left = books.counts.active();
        drop(books);
        drop(scattered);
        self.wake_loops();
        if left == 0 {
            // `notify_one` stores the notification for a later caller, so it is never missed.
            self.idle.notify_one();
        }
    }
}

/// The waker of the memory budget, woken when the memory in use passes a mark.
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
