//! The handle on a client, which has no type parameters.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ClientError;
use super::shared::{Admission, ClientShared, Later};
use super::state::{ClientCounts, ClientState};
use crate::wire::after;

/// The operations of a handle, on a client with any type parameters.
trait Steer: Send + Sync {
    fn drain(&self, until: Instant);
    fn counts(&self) -> ClientCounts;
    fn taken(&self) -> usize;
}

impl<Req: Send, Ans: Send> Steer for ClientShared<Req, Ans> {
    fn drain(&self, until: Instant) {
        let mut later = Later::default();
        let mut inner = self.lock();
        inner.draining = Some(inner.draining.map_or(until, |earlier| earlier.min(until)));
        // A client that has ended keeps its error; in any other state, also after
        // `fail_fast_after`, calls fail with `Draining`.
        if !matches!(*self.state.borrow(), ClientState::Ended) {
            inner.gate = Admission::Refusing(ClientError::Draining);
        }
        inner.refuse(None, &ClientError::Draining, &mut later);
        self.wake(inner);
        self.state.send_if_modified(|state| match state {
            ClientState::Ended => false,
            state => {
                *state = ClientState::Draining;
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

/// A handle on a client, which controls it and returns its state. It has no type parameters, and
/// does not keep the client alive.
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
pub struct ClientHandle {
    steer: Arc<dyn Steer>,
    state: watch::Receiver<ClientState>,
}

impl ClientHandle {
    pub(super) fn new<Req: Send + 'static, Ans: Send + 'static>(
        shared: Arc<ClientShared<Req, Ans>>,
    ) -> Self {
        Self { state: shared.state.subscribe(), steer: shared }
    }

    /// The state of the client.
    pub fn state(&self) -> ClientState {
        self.state.borrow().clone()
    }

    /// The counters of its calls and connections.
    pub fn counts(&self) -> ClientCounts {
        self.steer.counts()
    }

    /// How many calls hold a slot, without those that are answered.
    pub fn in_flight(&self) -> usize {
        self.steer.taken()
    }

    /// Ready when there is a connection. Waiting for it is not required, because calls wait by
    /// themselves; it lets a program fail early.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unavailable`] with the error of the attempt, if it fails;
    /// [`ClientError::Draining`] if the client drains or has ended.
    pub fn connected(&self) -> impl Future<Output = Result<(), ClientError>> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            let settled = state.wait_for(|state| !matches!(state, ClientState::Connecting)).await;
            match settled.as_deref() {
                Ok(ClientState::Ready) => Ok(()),
                Ok(ClientState::Waiting { error, .. }) => {
                    Err(ClientError::Unavailable(Arc::clone(error)))
                }
                _ => Err(ClientError::Draining),
            }
        }
    }

    /// Drains the client: new calls fail with [`ClientError::Draining`]. Accepted calls are
    /// finished within this time, and those not answered by then fail; then the connection is
    /// half-closed first, so that no data is lost. Of several calls the earliest deadline counts.
    pub fn drain(&self, within: Duration) {
        self.steer.drain(after(Instant::now(), within));
    }

    /// Ready when the client has ended: it was drained, its last service was dropped, an attempt
    /// failed with a [`fatal`](super::fatal) error, or its runtime ended. Cancel safe.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            // It fails if the client's state was dropped, so the client has ended as well.
            drop(state.wait_for(|state| matches!(state, ClientState::Ended)).await);
        }
    }
}

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHandle").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}
