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

use super::Options;
use super::backoff::random;
use super::connect::{dial, late};
use super::error::{Cause, ClientError, Fatal, cause};
use super::shared::{Gate, Later, Outcome, Shared, earlier};
use super::state::State;
use crate::endpoint::error::ConnectError;
use crate::endpoint::remote::Remote;
use crate::wire::{Timer, after};

/// A connection that stood for so long has shown that the server works.
const STABLE: Duration = Duration::from_secs(10);

pub(super) struct Task<Req, Ans> {
    shared: Arc<Shared<Req, Ans>>,
    options: Options,
    /// Attempts since a connection stood for long enough.
    failures: u32,
    /// Since when there is no connection, and what the last attempt failed by.
    down: Instant,
    error: Option<Cause>,
    timer: Timer,
}

/// The client is to end.
struct Over;

impl<Req: Send + 'static, Ans: Send + 'static> Task<Req, Ans> {
    pub(super) fn new(shared: Arc<Shared<Req, Ans>>, options: Options) -> Self {
        Self {
            shared,
            options,
            failures: 0,
            down: Instant::now(),
            error: None,
            timer: Timer::default(),
        }
    }

    /// Runs until the client is to end. `service` is the leaf with its layers.
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
                Ok(Outcome::Drained) => return,
                Ok(Outcome::Aged) => continue,
                Err(error) => error,
            };
            let fatal = error.downcast_ref::<Fatal>().is_some();
            let error = cause(error);
            if fatal {
                self.shared.lock().gate = Gate::Refusing(ClientError::Unavailable(error));
                return;
            }
            // Several are alternatives.
            turn += 1;
            self.failures = self.failures.saturating_add(1);
            let wait = self.options.backoff.wait(self.failures, random());
            let until = after(Instant::now(), wait);
            self.error = Some(Arc::clone(&error));
            self.shared.set_state(State::Waiting { until, error: Arc::clone(&error) });
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            event!(WARN, error = %Escaped::display(&error), wait_ms, "a client has no connection, and will connect again");
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
    ) -> Result<Result<Outcome>, Over>
    where
        S: Service<Connection, Response = (), Error: Into<BoxError>>,
    {
        let until = after(Instant::now(), self.options.connect_within);
        {
            let mut inner = self.shared.lock();
            inner.prepared_by = Some(until);
            inner.counts.attempts += 1;
        }
        self.shared.set_state(State::Connecting);
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
        inner.counts.closed[reason.index()] += 1;
        inner.serving = false;
        if inner.draining.is_none() {
            inner.gate = Gate::Shut;
        }
        let opened = inner.opened.take();
        let outcome = inner.outcome.take();
        drop(inner);
        if opened.is_some() {
            self.down = Instant::now();
        }
        // From when it was prepared: a server that accepts, greets and closes does not count as one
        // that works.
        if opened.is_some_and(|opened| opened.elapsed() >= STABLE) {
            self.failures = 0;
        }
        Ok(match (outcome, served) {
            (Some(outcome), _) => Ok(outcome),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(Error::other("a layer has ended the connection")),
        })
    }

    /// Awaits the end of a connection. Before it is prepared callers are looked after here, and
    /// afterwards by its line.
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

    /// Awaits something while there is no connection, and looks after the callers.
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

    /// Ready when the client is to end.
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
                    inner.gate = Gate::Refusing(error);
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
    /// However it ends, by a panic of the codec or with its runtime as well: nobody waits for ever.
    fn drop(&mut self) {
        let mut later = Later::default();
        let mut inner = self.shared.lock();
        let error = match &inner.gate {
            Gate::Refusing(error) => error.clone(),
            Gate::Open | Gate::Shut => ClientError::Draining,
        };
        inner.gate = Gate::Refusing(error.clone());
        inner.refuse(None, &error, &mut later);
        inner.fail_queued(&error, &mut later);
        inner.fail_out(&mut later);
        drop(inner);
        self.shared.state.send_replace(State::Ended);
        later.run();
    }
}
