//! The server's future: not bound yet, or running.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Error, Result};

use super::Bound;
use super::lifecycle::Lifecycles;
use super::options::Options;
use super::signals::{Hangup, Signals};
use crate::endpoint::{self, Endpoint, EndpointError};
use crate::server::accept::all::Services;
use crate::server::accept::front::Sockets;
use crate::server::accept::gate::{AnyGate, Gate, Gateway};
use crate::server::books::shared::Shared;
use crate::server::books::table::EndpointState;
use crate::server::handle::Handle;
use crate::server::restart::{Inherited, Succession};
use crate::server::service::ConnectionService;

pub(in crate::server) type OnListening = Box<dyn FnOnce(&[String], &[Addr]) + Send>;
type Running = Pin<Box<dyn Future<Output = Result> + Send>>;

/// A service of a server that has not begun.
pub(in crate::server) struct Planned {
    pub(in crate::server) name: Arc<str>,
    /// Makes its gate, which has this number.
    pub(in crate::server) open: Box<dyn FnOnce(usize, Gateway) -> Arc<dyn AnyGate> + Send>,
}

impl Planned {
    pub(in crate::server) fn new<S: ConnectionService>(
        name: impl Into<Arc<str>>,
        service: S,
    ) -> Self {
        Self {
            name: name.into(),
            open: Box::new(move |index, gateway| Gate::open(index, service, gateway)),
        }
    }
}

/// The settings of a server before it begins.
pub(in crate::server) struct Plan {
    pub(in crate::server) endpoints: Vec<Result<Endpoint, EndpointError>>,
    /// The number of its service for each endpoint.
    pub(in crate::server) of: Vec<Option<usize>>,
    pub(in crate::server) services: Vec<Planned>,
    pub(in crate::server) lifecycles: Lifecycles,
    pub(in crate::server) options: Options,
    pub(in crate::server) on_listening: Option<OnListening>,
}

impl Plan {
    /// Binds all endpoints. If one fails, the listeners bound before it are dropped.
    async fn bind(self, shared: Arc<Shared>) -> Result<Bound> {
        if self.endpoints.is_empty() {
            return Err(Error::other(
                "no endpoint to serve: name one with Server::listen(\"tcp:127.0.0.1:8007\")",
            ));
        }
        let orphan = || {
            Error::other(
                "the endpoints of Server::listen have no service: end with `serve`, not with `run`",
            )
        };
        let of = self.of.iter().copied().collect::<Option<Vec<usize>>>().ok_or_else(orphan)?;
        let mut endpoints = self.endpoints.into_iter().collect::<Result<Vec<_>, _>>()?;
        endpoint::settle(&mut endpoints);
        let options = &self.options;
        let mut succession = match options.restart {
            Some(_) => Succession::begin().await?,
            None => None,
        };
        let names: Vec<_> = self.services.iter().map(|service| Arc::clone(&service.name)).collect();
        let named = endpoints.len();
        let mut all = All { endpoints, of, inherited: Vec::new() };
        all.inherit(succession.as_mut(), &names)?;
        all.check(&shared)?;
        // Installed before the first endpoint is bound, so that a signal can't end the process
        // while it has a path to remove.
        let signals =
            Signals::install(options.signals, options.signals && options.restart.is_some())?;
        let hangup = Hangup::install(options.signals && !shared.reloads.is_empty())?;
        let All { endpoints, of, inherited } = all;
        let states: Vec<_> = inherited.iter().map(state).collect();
        let preambles: Vec<_> =
            of.iter().map(|service| shared.preambles.for_endpoint(*service)).collect();
        let (sockets, mut addresses) =
            Sockets::open(&endpoints, inherited, options.workers, &preambles).await?;
        shared.endpoints.begin(names);
        let entries = of.iter().zip(&addresses).zip(preambles).zip(states);
        for (((&service, address), preambles), state) in entries {
            let number = shared.endpoints.add(service, address.clone(), preambles);
            shared.endpoints.set_state(number, state);
        }
        addresses.truncate(named);
        // The cell is empty, because a plan is bound only once.
        drop(shared.addresses.set(addresses));
        let Self { lifecycles, options, on_listening, services, .. } = self;
        let services = open(services, of, options.workers.unwrap_or(1), &shared);
        Ok(Bound {
            sockets,
            endpoints,
            named,
            services,
            succession,
            signals,
            hangup,
            lifecycles,
            options,
            on_listening,
            shared,
        })
    }
}

/// The endpoints of a server, its own and those that were added to the process before it.
struct All {
    endpoints: Vec<Endpoint>,
    /// The number of its service for each.
    of: Vec<usize>,
    /// What each has of the process before, if there was one.
    inherited: Vec<Inherited>,
}

impl All {
    fn inherit(&mut self, mut succession: Option<&mut Succession>, names: &[Arc<str>]) -> Result {
        for (endpoint, &service) in self.endpoints.iter().zip(&self.of) {
            let inherited =
                succession.as_mut().map(|from| from.take(&endpoint.place(), &names[service]));
            self.inherited.push(inherited.unwrap_or_default());
        }
        while let Some(from) = &mut succession
            && let Some((service, endpoint, inherited)) = from.take_added(names)?
        {
            self.of.push(service);
            self.endpoints.push(endpoint);
            self.inherited.push(inherited);
        }
        Ok(())
    }

    /// A wrong option, or a missing file, is refused before the server listens anywhere. The files
    /// of an endpoint that was removed may be gone.
    fn check(&self, shared: &Shared) -> Result {
        let there = self.endpoints.iter().zip(&self.inherited).enumerate();
        for (number, (endpoint, _)) in
            there.filter(|(_, (_, inherited))| inherited.removed.is_none())
        {
            endpoint.check()?;
            shared.reloads.add_endpoint(number, endpoint);
            if endpoint.has_preamble() {
                shared.leave_room_for_preambles();
            }
        }
        Ok(())
    }
}

fn state(inherited: &Inherited) -> EndpointState {
    match inherited {
        Inherited { removed: Some(_), .. } => EndpointState::Removed,
        Inherited { paused: true, .. } => EndpointState::Paused,
        _ => EndpointState::Open,
    }
}

/// Opens the gates of the services.
fn open(services: Vec<Planned>, of: Vec<usize>, runtimes: usize, shared: &Arc<Shared>) -> Services {
    let together = (services.len() > 1).then(Arc::default);
    let gateway = Gateway { shared: Arc::clone(shared), loops: runtimes, together };
    let each = services.into_iter().enumerate();
    Services {
        gates: each.map(|(index, service)| (service.open)(index, gateway.clone())).collect(),
        of,
        runtimes,
    }
}

/// A server that is ready to run: await it.
///
/// It ends when it was told to drain or stop (by its [`Handle`] or a signal) and its last
/// connection is gone. Dropping it earlier stops accepting and aborts its connections.
///
/// # Errors
///
/// An endpoint that is invalid or can't be bound (the error names it; then the server listens
/// nowhere), a lifecycle that fails, or a service whose `poll_ready` fails. A peer can't end the
/// server.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve {
    handle: Handle,
    stage: Stage,
    /// Ends the server even if it never ran. Dropped last, after the listeners are closed.
    _over: Over,
}

enum Stage {
    Plan(Option<Box<Plan>>),
    Run(Running),
}

impl Serve {
    pub(in crate::server) fn new(plan: Plan, shared: Arc<Shared>) -> Self {
        let over = Over(Arc::clone(&shared));
        Self { handle: Handle(shared), stage: Stage::Plan(Some(Box::new(plan))), _over: over }
    }

    /// A handle on this server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Binds the endpoints without serving yet, so that [`Handle::addresses`] is known and clients
    /// may connect. With [`signals`](crate::Server::signals), signals are caught from here on, and
    /// acted on when the server is awaited.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before its end, the bound sockets are closed and the paths it made are
    /// removed.
    ///
    /// # Errors
    ///
    /// The error names the first endpoint that can't be bound; then no endpoint stays bound.
    pub async fn bind(mut self) -> Result<Self> {
        if let Stage::Plan(plan) = &mut self.stage
            && let Some(plan) = plan.take()
        {
            let bound = plan.bind(Arc::clone(&self.handle.0)).await?;
            self.stage = Stage::Run(Box::pin(bound.run()));
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
                    // Taken only by `bind`, which returns a running server or an error.
                    let Some(plan) = plan.take() else { return Poll::Pending };
                    let shared = Arc::clone(&self.handle.0);
                    self.stage =
                        Stage::Run(Box::pin(async move { plan.bind(shared).await?.run().await }));
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

/// Aborts the remaining connections when a server's future is dropped.
pub(in crate::server) struct Over(pub(in crate::server) Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.drain_all();
        self.0.abort_all();
        self.0.end(true);
    }
}
