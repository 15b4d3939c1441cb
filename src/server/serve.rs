//! A server from its first bind to its last connection.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::Addr;
use tokio::time::{sleep_until, timeout};

use super::ConnectionService;
use super::accept::Accept;
use super::handle::Handle;
use super::lifecycle::Lifecycles;
use super::shared::{Phase, Shared};
use super::signals::{Hangup, Signals};
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::{Error, Result};
use crate::listener::Listener;

/// How long aborted connections may take to be gone. Only a handler that blocks its thread takes any time.
const GONE: Duration = Duration::from_secs(1);

pub(super) type OnListening = Box<dyn FnOnce(&[Addr]) + Send>;
type Running = Pin<Box<dyn Future<Output = Result> + Send>>;
type Start = Box<dyn FnOnce(Bound) -> Running + Send>;

/// What a server is told before it begins.
pub(super) struct Plan {
    pub(super) endpoints: Vec<Result<Endpoint, EndpointError>>,
    pub(super) lifecycles: Lifecycles,
    pub(super) signals: bool,
    pub(super) drain: Duration,
    pub(super) on_listening: Option<OnListening>,
}

impl Plan {
    /// Binds every endpoint, or none: a failure drops the listeners that were bound before.
    async fn bind(self, shared: Arc<Shared>) -> Result<Bound> {
        if self.endpoints.is_empty() {
            return Err(Error::other("no endpoint to serve: name one with Server::listen(\"tcp:127.0.0.1:8007\")"));
        }
        // A string that is no endpoint, or a file that is missing, is refused before anything listens.
        let endpoints = self.endpoints.into_iter().collect::<Result<Vec<_>, _>>()?;
        for endpoint in &endpoints {
            endpoint.check()?;
            shared.reloads.add_endpoint(endpoint);
        }
        let mut listeners = Vec::with_capacity(endpoints.len());
        for endpoint in &endpoints {
            listeners.push(endpoint.bind_counted(&shared.preambles).await?);
        }
        let addresses: Vec<Addr> = listeners.iter().map(|listener| listener.local_addr()).collect();
        // Bound once: the plan is gone with this.
        drop(shared.addresses.set(addresses));
        let Self { lifecycles, signals, drain, on_listening, .. } = self;
        Ok(Bound { listeners, lifecycles, signals, drain, on_listening, shared })
    }
}

/// A server whose endpoints are bound.
pub(super) struct Bound {
    listeners: Vec<Box<dyn Listener>>,
    lifecycles: Lifecycles,
    signals: bool,
    drain: Duration,
    on_listening: Option<OnListening>,
    shared: Arc<Shared>,
}

/// A server that is ready to run: await it.
///
/// It ends when it was told to drain or stop (by its [`Handle`] or a signal) and its last connection is gone. Dropped
/// earlier, it stops accepting and aborts its connections.
///
/// # Errors
///
/// An endpoint that is none or can't be bound (the error names it; nothing listens then), a lifecycle that fails, or a
/// service whose `poll_ready` fails. Nothing a peer does ends it.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve {
    handle: Handle,
    stage: Stage,
    /// Ends the server also when it never came to run. Dropped last: the listeners are closed by then.
    _over: Over,
}

enum Stage {
    Plan(Option<(Plan, Start)>),
    Run(Running),
}

impl Serve {
    pub(super) fn new<S: ConnectionService>(plan: Plan, service: S, shared: Arc<Shared>) -> Self {
        let start: Start = Box::new(move |bound| Box::pin(bound.run(service)));
        let over = Over(Arc::clone(&shared));
        Self { handle: Handle(shared), stage: Stage::Plan(Some((plan, start))), _over: over }
    }

    /// A handle on this server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Binds the endpoints without serving yet, so that [`Handle::addresses`] is known and clients may connect.
    ///
    /// # Errors
    ///
    /// The first endpoint that can't be bound, by name; none is then.
    pub async fn bind(mut self) -> Result<Self> {
        if let Stage::Plan(plan) = &mut self.stage
            && let Some((plan, start)) = plan.take()
        {
            let bound = plan.bind(Arc::clone(&self.handle.0)).await?;
            self.stage = Stage::Run(start(bound));
        }
        Ok(self)
    }
}

impl Future for Serve {
    type Output = Result;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        loop {
            match &mut self.stage {
                Stage::Run(running) => return running.as_mut().poll(cx),
                Stage::Plan(plan) => {
                    // Taken only by `bind`, which gives back a running one or nothing.
                    let Some((plan, start)) = plan.take() else { return Poll::Pending };
                    let shared = Arc::clone(&self.handle.0);
                    self.stage = Stage::Run(Box::pin(async move { start(plan.bind(shared).await?).await }));
                }
            }
        }
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// Aborts what is left when a server's future is dropped.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.drain_all();
        self.0.abort_all();
        self.0.phase.send_replace(Phase::Ended);
    }
}

impl Bound {
    async fn run<S: ConnectionService>(self, service: S) -> Result {
        let Self { listeners, mut lifecycles, signals, drain, on_listening, shared } = self;
        let over = Over(Arc::clone(&shared));
        let hangup = Hangup::install(signals && !shared.reloads.is_empty())?;
        let mut signals = Signals::install(signals)?;
        start(&mut lifecycles, &mut signals).await?;
        announce(&shared, drain, on_listening);
        let mut accept = Accept::new(listeners, service, Arc::clone(&shared));
        let result = accept_until_told(&shared, &mut accept, drain, &mut signals, hangup).await;
        shared.drain_all();
        // A service that can't be readied takes nothing more.
        finish(&shared, result.is_ok().then_some(accept), &mut signals).await;
        let stopped = stop(&mut lifecycles, &mut signals).await;
        drop(over);
        result.and(stopped)
    }
}

/// Starts the lifecycles, unless a signal comes first.
async fn start(lifecycles: &mut Lifecycles, signals: &mut Signals) -> Result {
    let told = tokio::select! {
        biased;
        result = lifecycles.start() => return result,
        () = signals.next() => Error::other("told to end by a signal before the lifecycles had started"),
    };
    drop(stop(lifecycles, signals).await);
    Err(told)
}

/// Stops the lifecycles that were started, unless a signal says that it takes too long.
async fn stop(lifecycles: &mut Lifecycles, signals: &mut Signals) -> Result {
    tokio::select! {
        biased;
        result = lifecycles.stop() => result,
        () = signals.next() => Err(Error::other("told to end by a signal before the lifecycles had stopped")),
    }
}

/// Says what is in force, in the log and to the hook.
fn announce(shared: &Shared, drain: Duration, hook: Option<OnListening>) {
    let addresses = shared.addresses.get().map_or(&[][..], Vec::as_slice);
    for address in addresses {
        tracing::info!(%address, max_connections = shared.max(), drain_seconds = drain.as_secs(), "listening");
    }
    if let Some(hook) = hook {
        hook(addresses);
    }
}

/// Accepts until told to stop. An error is that of a service that can't be readied any more; what is open goes on.
async fn accept_until_told<S: ConnectionService>(
    shared: &Shared,
    accept: &mut Accept<S>,
    drain: Duration,
    signals: &mut Signals,
    hangup: Hangup,
) -> Result {
    let mut phase = shared.phase.subscribe();
    let result = tokio::select! {
        biased;
        () = signals.next() => {
            tracing::info!("told to end by a signal: draining; a second one stops now");
            Ok(())
        }
        _ = phase.wait_for(|phase| *phase != Phase::Running) => Ok(()),
        () = reload_when_told(shared, hangup) => Ok(()),
        error = poll_fn(|cx| accept.poll(cx)) => {
            tracing::error!(%error, "the service can't be readied any more: draining");
            Err(error)
        }
    };
    if *shared.phase.borrow() == Phase::Running {
        shared.begin_drain(drain);
    }
    if result.is_ok() && *shared.phase.borrow() != Phase::Stopping {
        // What had connected when the drain began is taken. Without tokio's budget for one turn, which would leave all but the first 128 to be reset.
        tokio::task::unconstrained(poll_fn(|cx| accept.poll_backlog(cx))).await;
    }
    result
}

/// Reads the certificates again at each SIGHUP. It never ends.
async fn reload_when_told(shared: &Shared, mut hangup: Hangup) {
    loop {
        hangup.next().await;
        // Said in the log, with the reason; the old ones stay.
        drop(shared.reloads.reload().await);
    }
}

/// Waits until the last connection is gone, and with it the last that was on its way when the listeners closed.
async fn all_gone<S: ConnectionService>(shared: &Shared, accept: Option<Accept<S>>) {
    if let Some(mut accept) = accept {
        poll_fn(|cx| accept.poll_pending(cx)).await;
    }
    shared.wait_idle().await;
}

/// Waits for the connections to finish, to the deadline or until told to stop now; then aborts what is left.
async fn finish<S: ConnectionService>(shared: &Shared, accept: Option<Accept<S>>, signals: &mut Signals) {
    let mut phase = shared.phase.subscribe();
    let mut gone = pin!(all_gone(shared, accept));
    loop {
        let Phase::Draining(deadline) = *phase.borrow_and_update() else { break };
        tokio::select! {
            biased;
            () = &mut gone => return,
            () = signals.next() => {
                shared.stop();
                break;
            }
            _ = phase.changed() => {}
            () = sleep_until(deadline) => break,
        }
    }
    // With it go the preambles that are under way.
    gone.set(all_gone(shared, None::<Accept<S>>));
    let left = shared.counts().active();
    if left > 0 {
        tracing::warn!(connections = left, "aborting the connections that are left");
    }
    shared.abort_all();
    if timeout(GONE, shared.wait_idle()).await.is_err() {
        tracing::error!(connections = shared.counts().active(), "connections whose handlers block are left behind");
    }
}
