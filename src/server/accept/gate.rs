//! A service of a server, which several accept loops call in turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures::task::AtomicWaker;
use ropewalk_middleware::{Addr, Connection, Error, Peer};

use super::lobby::{Accepted, Lobby};
use super::task::{ConnectionTask, panic_text, panicked};
use crate::server::books::MadeRoom;
use crate::server::books::entry::OpenEntry;
use crate::server::books::registry::SHARDS;
use crate::server::books::shared::Shared;
use crate::server::service::ConnectionService;

/// The gate of a service of any type.
pub(in crate::server) trait AnyGate: Send + Sync {
    /// Admits a connection from the lobby, if there is room, as soon as the service is ready. An
    /// error is that of the service, which can't be made ready any more. `number` is that of the
    /// loop.
    fn poll_enter(
        &self,
        number: usize,
        lobby: &mut Lobby,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Door, Error>>;

    /// Aborts a connection to make room for a waiting one of this peer, if the rules find one.
    fn make_room(&self, newcomer: &Peer) -> MadeRoom;
}

/// The result of a look at the gate.
pub(in crate::server) enum Door {
    /// A connection was admitted.
    Passed,
    /// No connection waits, and there is room.
    Open,
    /// There is no room.
    Full,
}

/// The data that all gates of one server share.
#[derive(Clone)]
pub(in crate::server) struct Gateway {
    pub(in crate::server) shared: Arc<Shared>,
    /// The number of loops that use each gate.
    pub(in crate::server) loops: usize,
    /// Held while a connection is admitted, if there are several gates: the limit of the server
    /// counts them together.
    pub(in crate::server) together: Option<Arc<Mutex<()>>>,
}

impl Gateway {
    fn lock(&self) -> Option<MutexGuard<'_, ()>> {
        self.together
            .as_ref()
            .map(|together| together.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Every connection of a service passes through its gate, whichever loop has accepted it. So
/// `poll_ready` and `call` go to one value, no clone keeps a permit for itself, and limits count
/// for the whole server.
pub(in crate::server) struct Gate<S> {
    /// Its number among the gates of the server.
    index: usize,
    service: Mutex<Readied<S>>,
    gateway: Gateway,
    loops: Arc<Loops>,
    /// Wakes all loops, because a service stores only one waker.
    waker: Waker,
}

struct Readied<S> {
    service: S,
    ready: bool,
}

/// The wakers of the loops that have polled the gate, by their numbers.
struct Loops(Box<[AtomicWaker]>);

impl Wake for Loops {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.iter().for_each(AtomicWaker::wake);
    }
}

impl<S: ConnectionService> Gate<S> {
    pub(in crate::server) fn open(index: usize, service: S, gateway: Gateway) -> Arc<dyn AnyGate> {
        let loops = Arc::new(Loops((0..gateway.loops).map(|_| AtomicWaker::new()).collect()));
        let waker = Waker::from(Arc::clone(&loops));
        Arc::new(Self {
            index,
            service: Mutex::new(Readied { service, ready: false }),
            gateway,
            loops,
            waker,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Readied<S>> {
        // Panics of the service are caught below, so the data is consistent.
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the service and spawns the returned future on the loop's runtime. A leaf's `call` only
    /// moves data; its work begins in the task, including the part of a session's function before
    /// its first await.
    fn enter(
        &self,
        mut readied: MutexGuard<'_, Readied<S>>,
        together: Option<MutexGuard<'_, ()>>,
        accepted: Accepted,
    ) {
        let (stream, peer, listener) = accepted;
        let shared = &self.gateway.shared;
        readied.ready = false;
        let connection =
            Connection::accepted(stream, peer, listener).with_budget(shared.memory.budget());
        let entered: OpenEntry = shared.enter(&connection);
        // The connection is counted from here on.
        drop(together);
        let called = catch_unwind(AssertUnwindSafe(|| readied.service.call(connection)));
        drop(readied);
        match called {
            Ok(run) => drop(tokio::spawn(ConnectionTask::new(run, entered))),
            Err(panic) => panicked(&entered, panic),
        }
    }
}

impl<S: ConnectionService> AnyGate for Gate<S> {
    fn poll_enter(
        &self,
        number: usize,
        lobby: &mut Lobby,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Door, Error>> {
        self.loops.0[number].register(cx.waker());
        let cx = &mut Context::from_waker(&self.waker);
        let mut readied = self.lock();
        if !readied.ready {
            ready!(readied.poll_service(cx))?;
            readied.ready = true;
        }
        // Held until the connection is counted, so that no other one takes the room meanwhile.
        let together = self.gateway.lock();
        if self.gateway.shared.poll_room(self.index, lobby.has_promise(), cx).is_pending() {
            return Poll::Ready(Ok(Door::Full));
        }
        let Some(accepted) = lobby.next() else { return Poll::Ready(Ok(Door::Open)) };
        self.enter(readied, together, accepted);
        Poll::Ready(Ok(Door::Passed))
    }

    fn make_room(&self, newcomer: &Peer) -> MadeRoom {
        // Locked, so that the books contain no connection whose service has not been called yet.
        let _shut = self.lock();
        // The same for the other gates.
        let _together = self.gateway.lock();
        self.gateway.shared.make_room(newcomer)
    }
}

impl<S: ConnectionService> Readied<S> {
    fn poll_service(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match catch_unwind(AssertUnwindSafe(|| self.service.poll_ready(cx))) {
            Ok(poll) => poll.map_err(Error::other),
            Err(panic) => {
                let text = format!("the service panicked in poll_ready: {}", panic_text(&*panic));
                Poll::Ready(Err(Error::other(text)))
            }
        }
    }
}

/// Called when a listener could not accept because no descriptor was free. Closes the oldest silent
/// preamble, or else a connection that would make room for a peer without an address.
pub(super) fn free_descriptor(gate: &dyn AnyGate, shared: &Shared) {
    if shared.preambles.drop_silent() {
        return;
    }
    let nobody = Peer::new(Addr::Memory);
    // The order in which connections make room is built in several steps; each of them returns
    // `Undecided`.
    for _ in 0..=SHARDS {
        match gate.make_room(&nobody) {
            MadeRoom::Undecided => {}
            // No connection waits for this room, so it isn't kept for one.
            MadeRoom::Yes => return shared.keep_promise(&nobody),
            MadeRoom::No(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    use std::task::{Context, Poll, Waker};
    use std::thread;

    use ropewalk_middleware::{Addr, Connection, ConnectionInfo, Peer, Result, Stream};
    use tower::service_fn;

    use super::{Door, Gate, Gateway};
    use crate::memory::MemoryStream;
    use crate::server::accept::lobby::Lobby;
    use crate::server::books::max::MaxConnections;
    use crate::server::books::shared::Shared;
    use crate::server::run::reload::Reloads;

    const ROUNDS: usize = 3000;

    /// Two threads, each with a gate of its own, admit a connection at once; there is room for one.
    /// Without the lock that the gates share both get in, in one round of some hundred.
    #[test]
    fn two_gates_that_admit_at_the_same_moment_keep_to_the_limit_of_the_server() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Shared::new(
            MaxConnections::set_to(1),
            None,
            1,
            usize::MAX,
            false,
            2,
            Reloads::default(),
        );
        let gateway =
            Gateway { shared: Arc::clone(&shared), loops: 1, together: Some(Arc::default()) };
        let barrier = Arc::new(Barrier::new(2));
        let [passed, most] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let threads = [0, 1].map(|index| {
            let gate =
                Gate::open(index, service_fn(|_: Connection| pending::<Result>()), gateway.clone());
            let shared = Arc::clone(&shared);
            let barrier = Arc::clone(&barrier);
            let passed = Arc::clone(&passed);
            let most = Arc::clone(&most);
            let runtime = runtime.handle().clone();
            thread::spawn(move || {
                let _in_runtime = runtime.enter();
                for _ in 0..ROUNDS {
                    let mut lobby = Lobby::new(1, &shared);
                    lobby.push((
                        Stream::boxed(MemoryStream::pair(64).0),
                        Peer::new(Addr::Memory),
                        index,
                    ));
                    barrier.wait();
                    let door =
                        gate.poll_enter(0, &mut lobby, &mut Context::from_waker(Waker::noop()));
                    passed.fetch_add(
                        usize::from(matches!(door, Poll::Ready(Ok(Door::Passed)))),
                        Ordering::SeqCst,
                    );
                    if barrier.wait().is_leader() {
                        most.fetch_max(passed.swap(0, Ordering::SeqCst), Ordering::SeqCst);
                        shared
                            .registry
                            .connections(|_| true)
                            .iter()
                            .for_each(ConnectionInfo::abort);
                        runtime.block_on(shared.wait_idle());
                    }
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
