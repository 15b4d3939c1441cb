//! `Serve`, the server's future: not bound yet, or running.

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
use crate::server::restart::{Beside, InheritedEndpoint, ListedEndpoint, Takeover};
use crate::server::service::ConnectionService;

pub(in crate::server) type OnListening = Box<dyn FnOnce(&[String], &[Addr]) + Send>;
type RunFuture = Pin<Box<dyn Future<Output = Result> + Send>>;

/// A service of a server that is not bound yet.
pub(in crate::server) struct Planned {
    pub(in crate::server) name: Arc<str>,
    /// Makes its gate, with a number and the data that gates share.
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

/// A server that is not bound yet, as its builder has made it.
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
        if options.restart.is_some() {
            shared.beside.inherit(Takeover::begin().await?);
        }
        let names: Vec<_> = self.services.iter().map(|service| Arc::clone(&service.name)).collect();
        let named = endpoints.len();
        let mut all = PlannedEndpoints { endpoints, of, inherited: Vec::new() };
        all.inherit(&shared.beside, options.beside.as_ref(), &names)?;
        all.check(&shared)?;
        options.beside.iter().for_each(Beside::expect);
        // Installed before the first endpoint is bound, so that a signal can't end the process
        // while it has a path to remove.
        let signals =
            Signals::install(options.signals, options.signals && options.restart.is_some())?;
        let hangup = Hangup::install(options.signals && !shared.reloads.is_empty())?;
        let PlannedEndpoints { endpoints, of, inherited } = all;
        let states: Vec<_> = inherited.iter().map(state).collect();
        let preambles: Vec<_> =
            of.iter().map(|service| shared.preambles.for_endpoint(*service)).collect();
        let (sockets, mut addresses) =
            Sockets::open(&endpoints, inherited, options.workers, &preambles).await?;
        shared.endpoints.begin(names);
        let entries = of.iter().zip(&addresses).zip(preambles).zip(states);
        for (((&service, address), preambles), state) in entries {
            let number = shared.endpoints.add(service, address.clone(), preambles)?;
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
            signals,
            hangup,
            lifecycles,
            options,
            on_listening,
            shared,
        })
    }
}

/// The endpoints of a server: those that its program names, then those that a handle had added in
/// the old process.
struct PlannedEndpoints {
    endpoints: Vec<Endpoint>,
    /// The number of its service for each.
    of: Vec<usize>,
    /// For each, what an old process has handed over.
    inherited: Vec<InheritedEndpoint>,
}

impl PlannedEndpoints {
    /// Takes what an old process has handed over to this server, or to the one that this one is
    /// beside.
    fn inherit(&mut self, own: &Beside, main: Option<&Beside>, names: &[Arc<str>]) -> Result {
        let from = main.unwrap_or(own);
        for (endpoint, &service) in self.endpoints.iter().zip(&self.of) {
            self.inherited.push(from.take(&ListedEndpoint {
                endpoint: endpoint.place(),
                service: Arc::clone(&names[service]),
                beside: main.is_some(),
                ..ListedEndpoint::default()
            }));
        }
        while let Some((service, endpoint, inherited)) = own.take_added(names)? {
            self.of.push(service);
            self.endpoints.push(endpoint);
            self.inherited.push(inherited);
        }
        Ok(())
    }

    /// Reports wrong options and missing files before the server listens anywhere. The files of an
    /// endpoint that was removed may be gone.
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

fn state(inherited: &InheritedEndpoint) -> EndpointState {
    match inherited {
        InheritedEndpoint { removed: Some(_), .. } => EndpointState::Removed,
        InheritedEndpoint { paused: true, .. } => EndpointState::Paused,
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
    stage: ServeStage,
    /// Ends the server even if it never ran. Dropped last, after the listeners are closed.
    _over: EndOnDrop,
}

enum ServeStage {
    Plan(Option<Box<Plan>>),
    Run(RunFuture),
}

impl Serve {
    pub(in crate::server) fn new(plan: Plan, shared: Arc<Shared>) -> Self {
        let over = EndOnDrop(Arc::clone(&shared));
        Self { handle: Handle(shared), stage: ServeStage::Plan(Some(Box::new(plan))), _over: over }
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
        if let ServeStage::Plan(plan) = &mut self.stage
            && let Some(plan) = plan.take()
        {
            let bound = plan.bind(Arc::clone(&self.handle.0)).await?;
            self.stage = ServeStage::Run(Box::pin(bound.run()));
        }
        Ok(self)
    }
}

impl Future for Serve {
    type Output = Result;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        loop {
            match &mut self.stage {
                ServeStage::Run(running) => return running.as_mut().poll(cx),
                ServeStage::Plan(plan) => {
                    // The plan is taken only by `bind`, which returns a running server or an error.
                    let Some(plan) = plan.take() else { return Poll::Pending };
                    let shared = Arc::clone(&self.handle.0);
                    self.stage =
                        ServeStage::Run(Box::pin(
                            async move { plan.bind(shared).await?.run().await },
                        ));
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

/// When dropped, drains and aborts the remaining connections and ends the server.
pub(in crate::server) struct EndOnDrop(pub(in crate::server) Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // If it never ran, the process that it was to take over from goes on.
        drop(self.0.beside.succession());
        self.0.drain_all();
        self.0.abort_all();
        self.0.end(true);
    }
}
