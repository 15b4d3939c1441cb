//! The future a server is: not bound yet, or running.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ropewalk_middleware::Addr;

use super::ConnectionService;
use super::front::Sockets;
use super::handle::Handle;
use super::lifecycle::Lifecycles;
use super::restart::Succession;
use super::run::{Bound, Options};
use super::shared::Shared;
use super::signals::{Hangup, Signals};
use crate::endpoint::{self, Endpoint, EndpointError};
use crate::error::{Error, Result};

pub(super) type OnListening = Box<dyn FnOnce(&[Addr]) + Send>;
type Running = Pin<Box<dyn Future<Output = Result> + Send>>;
type Start = Box<dyn FnOnce(Bound) -> Running + Send>;

/// What a server is told before it begins.
pub(super) struct Plan {
    pub(super) endpoints: Vec<Result<Endpoint, EndpointError>>,
    pub(super) lifecycles: Lifecycles,
    pub(super) options: Options,
    pub(super) on_listening: Option<OnListening>,
}

impl Plan {
    /// Binds every endpoint, or none: a failure drops the listeners that were bound before.
    async fn bind(self, shared: Arc<Shared>) -> Result<Bound> {
        if self.endpoints.is_empty() {
            return Err(Error::other("no endpoint to serve: name one with Server::listen(\"tcp:127.0.0.1:8007\")"));
        }
        // A string that is no endpoint, or a file that is missing, is refused before anything listens.
        let mut endpoints = self.endpoints.into_iter().collect::<Result<Vec<_>, _>>()?;
        endpoint::settle(&mut endpoints);
        for endpoint in &endpoints {
            endpoint.check()?;
            shared.reloads.add_endpoint(endpoint);
        }
        // From before the first endpoint is bound: a signal that comes later ends no process that has a path to remove.
        let options = &self.options;
        let signals = Signals::install(options.signals, options.signals && options.restart.is_some())?;
        let hangup = Hangup::install(options.signals && !shared.reloads.is_empty())?;
        let mut succession = match options.restart {
            Some(_) => Succession::begin().await?,
            None => None,
        };
        let (sockets, addresses) = Sockets::open(&endpoints, options.workers, &mut succession, &shared).await?;
        // Bound once: the plan is gone with this.
        drop(shared.addresses.set(addresses));
        let Self { lifecycles, options, on_listening, .. } = self;
        Ok(Bound { sockets, endpoints, succession, signals, hangup, lifecycles, options, on_listening, shared })
    }
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
    Plan(Option<(Box<Plan>, Start)>),
    Run(Running),
}

impl Serve {
    pub(super) fn new<S: ConnectionService>(plan: Plan, service: S, shared: Arc<Shared>) -> Self {
        let start: Start = Box::new(move |bound| Box::pin(bound.run(service)));
        let over = Over(Arc::clone(&shared));
        Self { handle: Handle(shared), stage: Stage::Plan(Some((Box::new(plan), start))), _over: over }
    }

    /// A handle on this server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Binds the endpoints without serving yet, so that [`Handle::addresses`] is known and clients may connect. With
    /// [`signals`](super::Server::signals) those are held from here on, and heeded when this is awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it closes what was bound, and removes the paths it made.
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
pub(super) struct Over(pub(super) Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.drain_all();
        self.0.abort_all();
        self.0.end(true);
    }
}
