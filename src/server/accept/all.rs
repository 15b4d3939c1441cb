//! The accept loops of one runtime: one for each service.

use std::sync::Arc;
use std::task::{Context, Poll};

use ropewalk_middleware::Error;

use super::gate::AnyGate;
use super::{Accept, Listening};
use crate::server::books::shared::Shared;
use crate::server::restart::{ListedEndpoint, Passed, RestartError};
use crate::server::run::command::Change;

/// The services of a server: their gates, and the service of each endpoint.
#[derive(Clone)]
pub(in crate::server) struct Services {
    pub(in crate::server) gates: Vec<Arc<dyn AnyGate>>,
    /// The number of its service for each endpoint.
    pub(in crate::server) of: Vec<usize>,
    /// The number of runtimes that have accept loops.
    pub(in crate::server) runtimes: usize,
}

/// The accept loops of one runtime.
pub(in crate::server) struct All(Vec<Accept>);

impl All {
    /// Makes the loops of the runtime with this number.
    pub(super) fn new(
        listeners: Vec<Listening>,
        services: &Services,
        number: usize,
        shared: &Arc<Shared>,
    ) -> Self {
        let mut of_each: Vec<Vec<Listening>> = services.gates.iter().map(|_| Vec::new()).collect();
        for listening in listeners {
            of_each[services.of[listening.endpoint]].push(listening);
        }
        let loops = services.runtimes * services.gates.len();
        let ahead = services.gates.len() == 1;
        let accept = |(listeners, gate): (_, &Arc<_>)| {
            Accept::new(listeners, Arc::clone(gate), number, loops, ahead, shared)
        };
        Self(of_each.into_iter().zip(&services.gates).map(accept).collect())
    }

    /// Accepts for ever. Ready only with the error of a service that can't be made ready any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        for accept in &mut self.0 {
            if let Poll::Ready(error) = accept.poll(cx) {
                return Poll::Ready(error);
            }
        }
        Poll::Pending
    }

    /// Closes the listeners of all loops: see [`Accept::poll_backlog`].
    pub(super) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Each loop is polled, even if one is pending, because each closes its listeners at once.
        self.0.iter_mut().fold(Poll::Ready(()), |all, accept| both(all, accept.poll_backlog(cx)))
    }

    /// Ready when all connections that were accepted before the listeners closed are served.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.iter_mut().fold(Poll::Ready(()), |all, accept| both(all, accept.poll_pending(cx)))
    }

    /// Duplicates of the listening sockets, in the order of their numbers.
    pub(super) fn hand_over(&self, places: &[ListedEndpoint]) -> Result<Vec<Passed>, RestartError> {
        let each: Result<Vec<_>, _> =
            self.0.iter().map(|accept| accept.hand_over(places)).collect();
        let mut sockets: Vec<_> = each?.into_iter().flatten().collect();
        sockets.sort_by_key(|(number, _)| *number);
        Ok(sockets.into_iter().map(|(_, passed)| passed).collect())
    }

    /// Gives up the sockets that another process has taken. `taken` is in the order in which they
    /// were handed over.
    pub(super) fn give_up(&mut self, taken: &[bool]) {
        let mut sockets: Vec<usize> = self.0.iter().flat_map(Accept::sockets).collect();
        sockets.sort_unstable();
        self.give_up_numbers(&by_number(&sockets, taken));
    }

    /// Does the same with `taken` indexed by the numbers of the sockets.
    pub(super) fn give_up_numbers(&mut self, taken: &[bool]) {
        self.0.iter_mut().for_each(|accept| accept.give_up(taken));
    }

    pub(super) fn add(&mut self, service: usize, listeners: impl IntoIterator<Item = Listening>) {
        self.0[service].add(listeners);
    }

    pub(super) fn change(&mut self, number: usize, change: Change) {
        self.0.iter_mut().for_each(|accept| accept.change(number, change));
    }

    pub(super) fn close(&mut self) {
        self.0.iter_mut().for_each(Accept::close);
    }
}

/// Converts `taken` to be indexed by the numbers of the sockets, which `sockets` has in the order
/// of `taken`.
pub(super) fn by_number(sockets: &[usize], taken: &[bool]) -> Vec<bool> {
    let mut by_number = vec![false; sockets.iter().max().map_or(0, |most| most + 1)];
    sockets.iter().zip(taken).for_each(|(&number, &taken)| by_number[number] = taken);
    by_number
}

fn both(one: Poll<()>, other: Poll<()>) -> Poll<()> {
    if one.is_ready() { other } else { one }
}
