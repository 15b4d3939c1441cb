//! The one service of a server, which one accept loop after the other calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures::task::AtomicWaker;
use ropewalk_middleware::{Addr, Connection, Error, Peer, Stream};

use super::task::{ConnectionTask, panic_text, panicked};
use crate::server::books::MadeRoom;
use crate::server::books::registry::SHARDS;
use crate::server::books::shared::{Entered, Shared};
use crate::server::service::ConnectionService;

/// Where each connection comes through, whichever loop has accepted it. So the service is readied and called as one
/// value, without a clone that would keep a permit to itself, and the caps are those of the server.
pub(super) struct Gate<S> {
    service: Mutex<Readied<S>>,
    shared: Arc<Shared>,
    loops: Arc<Loops>,
    /// Wakes all of them: a service has room for one waker.
    waker: Waker,
}

struct Readied<S> {
    service: S,
    ready: bool,
}

/// The loops that wait at the gate, or have waited.
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
    /// For so many loops, which are numbered from 0.
    pub(in crate::server) fn new(service: S, loops: usize, shared: Arc<Shared>) -> Arc<Self> {
        let loops = Arc::new(Loops((0..loops).map(|_| AtomicWaker::new()).collect()));
        let waker = Waker::from(Arc::clone(&loops));
        Arc::new(Self { service: Mutex::new(Readied { service, ready: false }), shared, loops, waker })
    }

    /// A listener could not take a connection for want of descriptors. The oldest silent preamble is closed, or else a
    /// connection that would make room for a peer without an address.
    pub(super) fn free_descriptor(&self) {
        if self.shared.preambles.drop_silent() {
            return;
        }
        let nobody = Peer::new(Addr::Memory);
        // The connections are put in order piece by piece, where they are not in order yet.
        for _ in 0..=SHARDS {
            match self.make_room(&nobody) {
                MadeRoom::Undecided => {}
                // Nobody waits for that room.
                MadeRoom::Yes => return self.shared.keep_promise(&nobody),
                MadeRoom::No(_) => return,
            }
        }
    }

    /// Ready when the service is. If there is room for one more connection too, the gate is open: that holds as long as nobody
    /// else comes through, and nobody does before the result is dropped. `promised` says that room was made for it. An error is
    /// the service's, which can't be readied any more.
    pub(super) fn poll_open(
        &self,
        number: usize,
        promised: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Open<'_, S>>, Error>> {
        self.loops.0[number].register(cx.waker());
        let cx = &mut Context::from_waker(&self.waker);
        let mut readied = self.lock();
        if !readied.ready {
            ready!(readied.poll_service(cx))?;
            readied.ready = true;
        }
        let open = self.shared.poll_room(promised, cx).is_ready();
        Poll::Ready(Ok(open.then_some(Open { readied, shared: &self.shared })))
    }

    /// Has a connection make room for one of this peer's that waits.
    pub(in crate::server) fn make_room(&self, newcomer: &Peer) -> MadeRoom {
        // So that no connection is in the books whose service has not been called yet.
        let _shut = self.lock();
        self.shared.make_room(newcomer)
    }

    /// How many loops come by here.
    pub(in crate::server) fn loops(&self) -> usize {
        self.loops.0.len()
    }

    pub(in crate::server) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lock(&self) -> MutexGuard<'_, Readied<S>> {
        // A panic of the service is caught below, so what is locked is whole.
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The gate, open for one connection.
pub(in crate::server) struct Open<'a, S> {
    readied: MutexGuard<'a, Readied<S>>,
    shared: &'a Arc<Shared>,
}

impl<S: ConnectionService> Open<'_, S> {
    /// Calls the service and spawns what it returns, on the runtime of the loop. `call` only moves data; the work begins
    /// in the task, that of a leaf's function before its first await too.
    pub(in crate::server) fn enter(mut self, stream: Stream, peer: Peer, listener: usize) {
        self.readied.ready = false;
        let connection = Connection::accepted(stream, peer, listener).with_budget(self.shared.memory.budget());
        let entered: Entered = self.shared.enter(&connection);
        let called = catch_unwind(AssertUnwindSafe(|| self.readied.service.call(connection)));
        drop(self);
        match called {
            Ok(run) => drop(tokio::spawn(ConnectionTask::new(run, entered))),
            Err(panic) => panicked(&entered, panic),
        }
    }
}
