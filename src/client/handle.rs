//! What steers a client and tells how it is, whatever its types.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::CloseReason;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{Cause, ClientError};
use super::shared::{Gate, Later, Shared};
use crate::wire::after;

/// What a client is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// The client looks up the name, connects, does the handshake, or prepares the connection.
    Connecting,
    /// There is a connection.
    Ready,
    /// The last attempt failed, or the last connection ended, and the client waits before the next attempt.
    Waiting {
        /// When the next attempt begins.
        until: Instant,
        /// The error of the last attempt or connection.
        error: Cause,
    },
    /// The client accepts no new calls, and finishes those that it has.
    Draining,
    /// It has ended, and its task is gone.
    Ended,
}

/// A client's counters: its calls and connections so far.
///
/// Each accepted call is answered, failed, dropped by its caller, or pending: `calls` is always the sum of these.
#[derive(Clone, Default)]
pub struct ClientCounts {
    pub(super) attempts: u64,
    pub(super) connections: u64,
    pub(super) closed: [u64; CloseReason::ALL.len()],
    pub(super) calls: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) dropped: u64,
}

impl ClientCounts {
    /// Attempts to connect.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Connections that were made and prepared.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// How many connections ended for this reason, including those that could not be prepared.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// Accepted calls.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Calls whose callers have received their answers.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Calls that failed after they were accepted.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Calls that were dropped before their end.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Calls that are queued or sent, and whose callers wait.
    pub fn pending(&self) -> u64 {
        self.calls - self.answered - self.failed - self.dropped
    }
}

impl fmt::Debug for ClientCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, connections, closed: _, calls, answered, failed, dropped } = self;
        // Of the many reasons only those that occurred.
        let counts = CloseReason::ALL.into_iter().map(|reason| (reason.as_str(), self.closed(reason)));
        let closed: BTreeMap<_, _> = counts.filter(|(_, n)| *n > 0).collect();
        let mut counts = f.debug_struct("ClientCounts");
        counts.field("attempts", attempts).field("connections", connections).field("closed", &closed);
        counts.field("calls", calls).field("answered", answered).field("failed", failed).field("dropped", dropped);
        counts.finish()
    }
}

/// What a handle does with a client of any types.
trait Steer: Send + Sync {
    fn drain(&self, until: Instant);
    fn counts(&self) -> ClientCounts;
    fn taken(&self) -> usize;
}

impl<Req: Send, Ans: Send> Steer for Shared<Req, Ans> {
    fn drain(&self, until: Instant) {
        let mut later = Later::default();
        let mut inner = self.lock();
        inner.draining = Some(inner.draining.map_or(until, |earlier| earlier.min(until)));
        if !matches!(inner.gate, Gate::Refusing(_)) {
            inner.gate = Gate::Refusing(ClientError::Draining);
        }
        inner.refuse(None, &ClientError::Draining, &mut later);
        self.wake(inner);
        self.state.send_if_modified(|state| match state {
            State::Ended => false,
            state => {
                *state = State::Draining;
                true
            }
        });
        later.run();
    }

    fn counts(&self) -> ClientCounts {
        self.lock().counts.clone()
    }

    fn taken(&self) -> usize {
        self.lock().taken()
    }
}

/// A handle on a client, which controls it and returns its state. It has no type parameters, and does not keep the
/// client alive.
///
/// ```
/// use std::time::Duration;
/// use ropewalk::client::{Client, ClientError};
/// use ropewalk::{Bytes, Lines, Server, framed, memory, reply_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> ropewalk::Result {
/// let (endpoint, connector) = memory::endpoint();
/// tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line))).into_future());
///
/// let (echo, handle) = Client::new().connect(connector).pipelined::<String, _>(Lines::lf())?;
/// handle.connected().await?;
/// echo.ask("hello").await?;
/// handle.drain(Duration::from_secs(5));
/// assert!(matches!(echo.ask("late").await, Err(ClientError::Draining)));
/// handle.ended().await;
/// assert_eq!((handle.counts().answered(), handle.counts().connections()), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    steer: Arc<dyn Steer>,
    state: watch::Receiver<State>,
}

impl Handle {
    pub(super) fn new<Req: Send + 'static, Ans: Send + 'static>(shared: Arc<Shared<Req, Ans>>) -> Self {
        Self { state: shared.state.subscribe(), steer: shared }
    }

    /// What the client is doing.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The counters of its calls and connections.
    pub fn counts(&self) -> ClientCounts {
        self.steer.counts()
    }

    /// How many calls have a place, without those that are answered.
    pub fn in_flight(&self) -> usize {
        self.steer.taken()
    }

    /// Ready when there is a connection. Waiting for it is not required, because calls wait by themselves; it lets a
    /// program fail early.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unavailable`] with the error of the attempt, if it fails; [`ClientError::Draining`] if the client
    /// drains or has ended.
    pub fn connected(&self) -> impl Future<Output = Result<(), ClientError>> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            let settled = state.wait_for(|state| !matches!(state, State::Connecting)).await;
            match settled.as_deref() {
                Ok(State::Ready) => Ok(()),
                Ok(State::Waiting { error, .. }) => Err(ClientError::Unavailable(Arc::clone(error))),
                _ => Err(ClientError::Draining),
            }
        }
    }

    /// Drains the client: new calls fail with [`ClientError::Draining`]. Accepted calls are finished within this time,
    /// and those not answered by then fail; then the connection is half-closed first, so that no data is lost. Of
    /// several calls the earliest deadline counts.
    pub fn drain(&self, within: Duration) {
        self.steer.drain(after(Instant::now(), within));
    }

    /// Ready when the client has ended: it was drained, its last service was dropped, an attempt failed with a
    /// [`fatal`](super::fatal) error, or its runtime ended. Cancel safe.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            // An error is that of a client that is gone.
            drop(state.wait_for(|state| matches!(state, State::Ended)).await);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}
