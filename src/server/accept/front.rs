//! Where a server's connections come in: on the runtime it was awaited on, or on its workers.

use std::sync::Arc;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Error, Result};
use tokio::sync::mpsc;

use super::Listening;
use super::all::{All, Services};
use super::workers::Workers;
use crate::endpoint::Endpoint;
use crate::listener::opened::Opened;
use crate::listener::preamble::Preambles;
use crate::server::books::shared::Shared;
use crate::server::restart::{Inherited, Passed, Place, RestartError};
use crate::server::run::command::{Change, Closed, NewSockets};

/// What a server is to accept on.
pub(in crate::server) enum Sockets {
    /// Listeners in this runtime.
    Here(Vec<Listening>),
    /// For so many workers: the sockets of each endpoint.
    Workers(usize, Vec<Vec<Opened>>),
}

impl Sockets {
    /// Opens all endpoints, whose preambles are counted here, and finds their addresses. What an
    /// old process hands over is not opened again, and what was removed there is not opened.
    pub(in crate::server) async fn open(
        endpoints: &[Endpoint],
        inherited: Vec<Inherited>,
        workers: Option<usize>,
        preambles: &[Preambles],
    ) -> Result<(Self, Vec<Addr>)> {
        let mut addresses = Vec::with_capacity(endpoints.len());
        let (mut here, mut of_workers) = (Vec::new(), Vec::new());
        let each = endpoints.iter().zip(inherited).zip(preambles).enumerate();
        for (number, ((endpoint, Inherited { sockets, removed, .. }), preambles)) in each {
            if let Some(address) = removed {
                addresses.push(address);
                of_workers.push(Vec::new());
                continue;
            }
            let Some(workers) = workers else {
                let listeners = endpoint.bind_all(sockets, preambles).await;
                let listeners =
                    listeners.map_err(|error| error.behind(endpoint, &endpoints[..number]))?;
                // Those of one endpoint have one address.
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
                // Watched for a moment, for its address and for whatever would keep a worker from
                // doing so.
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
    /// Ready to accept, which it does from the first poll on.
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
            (Self::Workers(workers), NewSockets::Workers(opened)) => {
                workers.add(number, service, endpoint, opened)
            }
            // They are made for the front that there is.
            _ => {}
        }
    }

    /// Changes an endpoint. What is returned ends when all loops have done so.
    pub(in crate::server) fn change(&mut self, number: usize, change: Change) -> Closed {
        let (done, changed) = mpsc::channel(1);
        match self {
            Self::Here { all, .. } => all.change(number, change),
            Self::Workers(workers) => workers.change(number, change, &done),
        }
        changed
    }

    /// Accepts for ever. Ready only with the error of a service that can't be readied any more, or
    /// of a worker.
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match self {
            Self::Here { all: accept, .. } => accept.poll(cx),
            Self::Workers(workers) => workers.poll(cx),
        }
    }

    /// Closes what is given up, and accepts what already waits elsewhere before that closes, or has
    /// the workers do so.
    pub(in crate::server) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Here { all: accept, .. } => accept.poll_backlog(cx),
            Self::Workers(workers) => {
                workers.last_call();
                Poll::Ready(())
            }
        }
    }

    /// The listening sockets, for a new process to take over; `places` are the endpoints they were
    /// bound by.
    pub(in crate::server) fn hand_over(
        &self,
        places: &[Place],
    ) -> Result<Vec<Passed>, RestartError> {
        match self {
            Self::Here { all: accept, .. } => accept.hand_over(places),
            Self::Workers(workers) => workers.hand_over(places),
        }
    }

    /// Begins to make way for a process that has taken these sockets, in the order in which they
    /// were handed over: what they are bound to is that one's to remove. All others are this
    /// process's, so with none all are.
    pub(in crate::server) fn give_up(&mut self, taken: &[bool]) {
        match self {
            Self::Here { all: accept, .. } => accept.give_up(taken),
            Self::Workers(workers) => workers.give_up(taken),
        }
    }

    /// Gives up what was taken and not served. Done when [`poll_pending`](Self::poll_pending) is
    /// ready.
    pub(in crate::server) fn close(&mut self) {
        match self {
            Self::Here { all: accept, .. } => accept.close(),
            Self::Workers(workers) => workers.close(),
        }
    }

    /// Ready when nothing is to come any more of what was taken before the listeners closed.
    pub(in crate::server) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Here { all: accept, .. } => accept.poll_pending(cx),
            Self::Workers(workers) => workers.poll_pending(cx),
        }
    }
}
