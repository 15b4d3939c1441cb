//! The one task of a client: connect, serve, wait, and connect again.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::event::event;
use ropewalk_middleware::{BoxError, Connection, Error, Escaped, Result};
use tokio::time::{Instant, sleep_until, timeout_at};
use tower_service::Service;

use super::ClientOptions;
use super::backoff::random;
use super::connect::{dial, late};
use super::error::{Cause, ClientError, Fatal, cause};
use super::shared::{Admission, ClientShared, Completion, Later, earlier};
use super::state::ClientState;
use crate::endpoint::error::ConnectError;
use crate::endpoint::remote::Remote;
use crate::wire::{Timer, after};

/// After a connection has lasted this long, the count of failures is reset.
const STABLE: Duration = Duration::from_secs(10);

pub(super) struct Task<Req, Ans> {
    shared: Arc<ClientShared<Req, Ans>>,
    options: ClientOptions,
    /// Failed attempts, and connections that ended early, since a connection last lasted long
    /// enough.
    failures: u32,
    /// Since when there has been no connection, and the error of the last attempt or connection.
    down: Instant,
    error: Option<Cause>,
    timer: Timer,
}

/// The client has to end.
struct Over;

impl<Req: Send + 'static, Ans: Send + 'static> Task<Req, Ans> {
    pub(super) fn new(shared: Arc<ClientShared<Req, Ans>>, options: ClientOptions) -> Self {
        Self {
            shared,
            options,
            failures: 0,
            down: Instant::now(),
            error: None,
            timer: Timer::default(),
        }
    }

    /// Runs until the client ends. `service` is the leaf with its layers.
    pub(super) async fn run<S>(mut self, remotes: Vec<Remote>, mut service: S)
    where
        S: Service<Connection, Response = (), Error: Into<BoxError>>,
    {
        let mut turn = 0;
        loop {
            let ended = match self.attempt(&remotes[turn % remotes.len()], &mut service).await {
                Err(Over) => return,
                Ok(ended) => ended,
            };
            let error = match ended {
                Ok(Completion::Drained) => return,
                Ok(Completion::Aged) => continue,
                Err(error) => error,
            };
            let fatal = error.downcast_ref::<Fatal>().is_some();
            let error = cause(error);
            if fatal {
                self.shared.lock().gate = Admission::Refusing(ClientError::Unavailable(error));
                return;
            }
            // The remotes are alternatives: after a failure the next one is tried.
            turn += 1;
            self.failures = self.failures.saturating_add(1);
            let wait = self.options.backoff.wait(self.failures, random());
            let until = after(Instant::now(), wait);
            self.error = Some(Arc::clone(&error));
            self.shared.set_state(ClientState::Waiting { until, error: Arc::clone(&error) });
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            event!(WARN, error = %Escaped::display(&error), wait_ms, "a client has no connection; it will try again");
            if self.meanwhile(sleep_until(until)).await.is_err() {
                return;
            }
        }
    }

    /// Connects, and serves the connection until it ends.
    async fn attempt<S>(
        &mut self,
        remote: &Remote,
        service: &mut S,
    ) -> Result<Result<Completion>, Over>
    where
        S: Service<Connection, Response = (), Error: Into<BoxError>>,
    {
        let until = after(Instant::now(), self.options.connect_within);
        {
            let mut inner = self.shared.lock();
            inner.prepared_by = Some(until);
            inner.counts.attempts += 1;
        }
        self.shared.set_state(ClientState::Connecting);
        let connection = match self.meanwhile(timeout_at(until, dial(remote, None))).await? {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Ok(Err(error)),
            Err(_) => return Ok(Err(ConnectError::new(remote.to_string(), late()).into())),
        };
        let closing = connection.closing();
        let ready = self
            .meanwhile(timeout_at(
                until,
                poll_fn(|cx| service.poll_ready(cx).map_err(Error::other)),
            ))
            .await?;
        let served = match ready {
            Ok(Ok(())) => self.serve(pin!(service.call(connection))).await?,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late().into()),
        };
        let reason = closing.settle(served.is_err());
        let mut inner = self.shared.lock();
        inner.counts.closed[reason] += 1;
        inner.serving = false;
        if inner.draining.is_none() {
            inner.gate = Admission::Shut;
        }
        let opened = inner.opened.take();
        let outcome = inner.outcome.take();
        drop(inner);
        if opened.is_some() {
            self.down = Instant::now();
        }
        // Measured since it was prepared: a server that accepts, greets and closes must not reset
        // the count.
        if opened.is_some_and(|opened| opened.elapsed() >= STABLE) {
            self.failures = 0;
        }
        Ok(match (outcome, served) {
            (Some(outcome), _) => Ok(outcome),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(Error::other("a layer ended the connection")),
        })
    }

    /// Awaits the end of a connection. The deadlines of callers are kept here until it is prepared,
    /// and by its loop afterwards.
    async fn serve<E: Into<BoxError>>(
        &mut self,
        mut served: Pin<&mut impl Future<Output = Result<(), E>>>,
    ) -> Result<Result, Over> {
        poll_fn(|cx| {
            if let Poll::Ready(result) = served.as_mut().poll(cx) {
                return Poll::Ready(Ok(result.map_err(Error::other)));
            }
            if self.shared.lock().serving {
                return Poll::Pending;
            }
            self.poll_meanwhile(cx).map(|()| Err(Over))
        })
        .await
    }

    /// Awaits a future while there is no connection, and keeps the deadlines of callers meanwhile.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Result<F::Output, Over> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll_meanwhile(cx).map(|()| Err(Over))
        })
        .await
    }

    /// Keeps the deadlines of callers. Ready when the client has to end.
    fn poll_meanwhile(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.register(cx);
        loop {
            let now = Instant::now();
            let mut later = Later::default();
            let mut inner = self.shared.look();
            let unwanted = inner.draining.is_some() || self.shared.is_orphaned();
            if unwanted && inner.queue.is_empty()
                || inner.draining.is_some_and(|until| until <= now)
            {
                return Poll::Ready(());
            }
            let mut next = inner.draining;
            if let Some(patience) = self.options.fail_fast_after
                && inner.draining.is_none()
            {
                let until = after(self.down, patience);
                if until <= now {
                    let none = || cause(Error::other("there is no connection yet"));
                    let error = ClientError::Unavailable(self.error.clone().unwrap_or_else(none));
                    inner.refuse(None, &error, &mut later);
                    inner.fail_queued(&error, &mut later);
                    inner.gate = Admission::Refusing(error);
                } else {
                    next = earlier(next, Some(until));
                }
            }
            next = earlier(next, inner.expire(self.shared.patience, now, &mut later));
            drop(inner);
            later.run();
            let Some(next) = next else { return Poll::Pending };
            ready!(self.timer.poll(next, cx));
        }
    }
}

impl<Req, Ans> Drop for Task<Req, Ans> {
    /// Fails all calls, so that no caller waits for ever, also after a panic of the codec or the
    /// end of the runtime.
    fn drop(&mut self) {
        let mut later = Later::default();
        let mut inner = self.shared.lock();
        let error = match &inner.gate {
            Admission::Refusing(error) => error.clone(),
            Admission::Open | Admission::Shut => ClientError::Draining,
        };
        inner.gate = Admission::Refusing(error.clone());
        inner.refuse(None, &error, &mut later);
        inner.fail_queued(&error, &mut later);
        inner.fail_out(&mut later);
        drop(inner);
        self.shared.state.send_replace(ClientState::Ended);
        later.run();
    }
}
