//! What steers a client and tells how it is, whatever its types.

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
    /// It looks the name up, connects, does the handshake, or prepares the connection.
    Connecting,
    /// There is a connection.
    Ready,
    /// The last attempt failed, or the last connection ended, and it waits before the next attempt.
    Waiting {
        /// When the next attempt begins.
        until: Instant,
        /// What the last one failed by.
        error: Cause,
    },
    /// No new calls are taken, and those that are held are finished.
    Draining,
    /// It has ended, and its task is gone.
    Ended,
}

/// What became of a client's calls and connections so far.
///
/// Each call that was taken is answered, has failed, was dropped by its caller, or is pending: `calls` is their sum, at every
/// moment.
#[derive(Clone, Debug, Default)]
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

    /// Connections that were made, and prepared.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// How many connections ended for this reason, those that could not be prepared among them.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// Calls that were taken.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Calls whose callers have their answers.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Calls that failed after they were taken.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Calls that were dropped before their end.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Calls that are queued or out, and whose callers wait.
    pub fn pending(&self) -> u64 {
        self.calls - self.answered - self.failed - self.dropped
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

/// Steers a client, and tells how it is. It has no type parameters, and does not keep the client alive.
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

    /// What became of its calls and connections so far.
    pub fn counts(&self) -> ClientCounts {
        self.steer.counts()
    }

    /// How many calls have a place; answered ones not.
    pub fn in_flight(&self) -> usize {
        self.steer.taken()
    }

    /// Ready when there is a connection. Nobody has to wait for it: calls do so by themselves. It is for those who want to fail
    /// early.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unavailable`] with what the attempt failed by, when it fails; [`ClientError::Draining`] when the client
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

    /// Takes no new calls: they fail with [`ClientError::Draining`]. Those that were taken are finished within this time; the
    /// connection is closed then in its two halves, so that nothing is lost. What is not answered by then fails. The earliest
    /// deadline given stands.
    pub fn drain(&self, within: Duration) {
        self.steer.drain(after(Instant::now(), within));
    }

    /// Ready when the client has ended: it was drained, its last service was dropped, no other attempt can help
    /// ([`fatal`](super::fatal)), or its runtime ended. Cancel safe.
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
