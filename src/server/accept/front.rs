//! Set-up: a server accepts on the runtime on which it is awaited, or on its workers.

use std::sync::Arc;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Error, Result};
use tokio::sync::mpsc;

use super::Listening;
use super::all::{All, Services};
use super::workers::Workers;
use crate::endpoint::Endpoint;
use crate::listener::opened::OpenSocket;
use crate::listener::preamble::Preambles;
use crate::server::books::shared::Shared;
use crate::server::restart::{InheritedEndpoint, ListedEndpoint, Passed, RestartError};
use crate::server::run::command::{Change, Closed, NewSockets};

/// The sockets on which a server will accept.
pub(in crate::server) enum Sockets {
    /// Listeners in this runtime.
    Here(Vec<Listening>),
    /// For this many workers: the sockets of each endpoint.
    Workers(usize, Vec<Vec<OpenSocket>>),
}

impl Sockets {
    /// Opens all endpoints and finds their addresses. `inherited` and `preambles` have an entry for
    /// each endpoint. Sockets that an old process has handed over are not opened again, and
    /// endpoints that were removed there are not opened.
    pub(in crate::server) async fn open(
        endpoints: &[Endpoint],
        inherited: Vec<InheritedEndpoint>,
        workers: Option<usize>,
        preambles: &[Preambles],
    ) -> Result<(Self, Vec<Addr>)> {
        let mut addresses = Vec::with_capacity(endpoints.len());
        let mut here = Vec::new();
        let mut of_workers = Vec::new();
        let each = endpoints.iter().zip(inherited).zip(preambles).enumerate();
        for (number, ((endpoint, InheritedEndpoint { sockets, removed, .. }), preambles)) in each {
            if let Some(address) = removed {
                addresses.push(address);
                of_workers.push(Vec::new());
                continue;
            }
            let Some(workers) = workers else {
                let listeners = endpoint.bind_all(sockets, preambles).await;
                let listeners =
                    listeners.map_err(|error| error.behind(endpoint, &endpoints[..number]))?;
                // All listeners of one endpoint have the same address.
                addresses.extend(listeners.first().map(|listener| listener.local_addr()));
                let first = here.len();
                let numbered = listeners.into_iter().zip(first..);
                here.extend(
                    numbered.map(|(listener, socket)| Listening::new(number, socket, listener)),
                );
                continue;
            };
            let opened = endpoint.open(workers, sockets).await;
            let opened = opened.map_err(|error| error.behind(endpoint, &endpoints[..number]))?;
            if let Some(first) = opened.first() {
                // Registered for a moment, to learn its address and to report any error that a
                // worker would have.
                addresses.push(endpoint.listener(first.share()?, preambles)?.local_addr());
            }
            of_workers.push(opened);
        }
        Ok(match workers {
            None => (Self::Here(here), addresses),
            Some(workers) => (Self::Workers(workers, of_workers), addresses),
        })
    }
}

/// The accept loops of this runtime, or those of each worker.
pub(in crate::server) enum Front {
    Here {
        all: All,
        /// The number of the next socket.
        sockets: usize,
    },
    Workers(Workers),
}

impl Front {
    /// Makes the accept loops. They accept from the first poll on.
    pub(in crate::server) async fn new(
        sockets: Sockets,
        endpoints: &[Endpoint],
        services: Services,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        Ok(match sockets {
            Sockets::Here(listeners) => {
                let sockets = listeners.len();
                Self::Here { all: All::new(listeners, &services, 0, shared), sockets }
            }
            Sockets::Workers(workers, sockets) => {
                Self::Workers(Workers::start(workers, sockets, endpoints, &services, shared).await?)
            }
        })
    }

    /// Accepts on a new endpoint with this number.
    pub(in crate::server) fn add(
        &mut self,
        number: usize,
        service: usize,
        endpoint: &Endpoint,
        new: NewSockets,
    ) {
        match (self, new) {
            (Self::Here { all, sockets }, NewSockets::Here(listeners)) => {
                let first = *sockets;
                *sockets += listeners.len();
                let numbered = listeners.into_iter().zip(first..);
                all.add(
                    service,
                    numbered.map(|(listener, socket)| Listening::new(number, socket, listener)),
                );
            }
            (Self::Workers(workers), NewSockets::Workers { opened, shares }) => {
                workers.add(number, service, endpoint, opened, shares);
            }
            // The sockets were made for the kind of front that this server has.
            _ => {}
        }
    }

    /// Changes an endpoint. The returned channel is closed when all loops have made the change.
    pub(in crate::server) fn change(&mut self, number: usize, change: Change) -> Closed {
        let (done, changed) = mpsc::channel(1);
        match self {
            Self::Here { all, .. } => all.change(number, change),
            Self::Workers(workers) => workers.change(number, change, &done),
        }
        changed
    }

    /// Accepts for ever. Ready only with the error of a service that can't be made ready any more,
    /// or of a worker.
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match self {
            Self::Here { all: accept, .. } => accept.poll(cx),
            Self::Workers(workers) => workers.poll(cx),
        }
    }

    /// Closes all listeners. Connections in their backlogs are accepted first, except those of
    /// sockets that were given up. Workers do this themselves, later.
    pub(in crate::server) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Here { all: accept, .. } => accept.poll_backlog(cx),
            Self::Workers(workers) => {
                workers.last_call();
                Poll::Ready(())
            }
        }
    }

    /// Duplicates of the listening sockets, for a new process. `places` are the endpoints by
    /// number.
    pub(in crate::server) fn hand_over(
        &self,
        places: &[ListedEndpoint],
    ) -> Result<Vec<Passed>, RestartError> {
        match self {
            Self::Here { all: accept, .. } => accept.hand_over(places),
            Self::Workers(workers) => workers.hand_over(places),
        }
    }

    /// Gives up the sockets that a new process has taken: that process removes their paths from now
    /// on. `taken` is in the order in which the sockets were handed over. All others stay with this
    /// process; an empty slice takes all of them back.
    pub(in crate::server) fn give_up(&mut self, taken: &[bool]) {
        match self {
            Self::Here { all: accept, .. } => accept.give_up(taken),
            Self::Workers(workers) => workers.give_up(taken),
        }
    }

    /// Does the same with `taken` indexed by the numbers that the sockets had when they were handed
    /// over.
    pub(in crate::server) fn give_up_numbers(&mut self, taken: &[bool]) {
        match self {
            Self::Here { all: accept, .. } => accept.give_up_numbers(taken),
            Self::Workers(workers) => workers.give_up_numbers(taken.to_vec()),
        }
    }

    /// Aborts connections that were accepted and not served. Done when
    /// [`poll_pending`](Self::poll_pending) is ready.
    pub(in crate::server) fn close(&mut self) {
        match self {
            Self::Here { all: accept, .. } => accept.close(),
            Self::Workers(workers) => workers.close(),
        }
    }

    /// Ready when all connections that were accepted before the listeners closed are served or
    /// given up.
    pub(in crate::server) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Here { all: accept, .. } => accept.poll_pending(cx),
            Self::Workers(workers) => workers.poll_pending(cx),
        }
    }
}
