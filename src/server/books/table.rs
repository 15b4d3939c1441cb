//! The endpoints of a server and their states.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropewalk_middleware::{Addr, Error, Result};

use crate::listener::preamble::Preambles;

/// How many endpoints a server may have in its life. One that was removed keeps its counts, so that
/// sums over all endpoints stay right; each takes about a kilobyte.
const MOST: usize = 65_536;

/// Whether connections are accepted on an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointState {
    /// They are.
    Open,
    /// They wait in the backlog.
    Paused,
    /// It was removed: its sockets are closed.
    Removed,
}

/// The endpoints of a server, by their numbers, and the names of its services.
#[derive(Debug, Default)]
pub(in crate::server) struct Endpoints(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    services: Vec<Arc<str>>,
    endpoints: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) service: usize,
    pub(super) address: Addr,
    pub(super) state: EndpointState,
    /// Counts those of this endpoint.
    pub(super) preambles: Preambles,
}

impl Endpoints {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Only plain values change under it, so they are consistent even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::server) fn begin(&self, services: Vec<Arc<str>>) {
        self.lock().services = services;
    }

    /// Returns its number.
    pub(in crate::server) fn add(
        &self,
        service: usize,
        address: Addr,
        preambles: Preambles,
    ) -> Result<usize> {
        let mut table = self.lock();
        let number = table.endpoints.len();
        if number >= MOST {
            return Err(Error::other(format!(
                "the server has had {MOST} endpoints, and may have no more"
            )));
        }
        table.endpoints.push(Entry { service, address, state: EndpointState::Open, preambles });
        Ok(number)
    }

    /// The names of the services, and all endpoints.
    pub(super) fn all(&self) -> (Vec<Arc<str>>, Vec<Entry>) {
        let table = self.lock();
        (table.services.clone(), table.endpoints.clone())
    }

    /// The number of the service with this name.
    pub(in crate::server) fn service(&self, name: &str) -> Option<usize> {
        self.lock().services.iter().position(|service| **service == *name)
    }

    /// The preambles of an endpoint.
    pub(in crate::server) fn preambles(&self, number: usize) -> Option<Preambles> {
        self.lock().endpoints.get(number).map(|entry| entry.preambles.clone())
    }

    /// The address of an endpoint.
    pub(in crate::server) fn address(&self, number: usize) -> Option<Addr> {
        self.lock().endpoints.get(number).map(|entry| entry.address.clone())
    }

    /// The state of an endpoint; `None` if no endpoint has this number.
    pub(in crate::server) fn state(&self, number: usize) -> Option<EndpointState> {
        self.lock().endpoints.get(number).map(|entry| entry.state)
    }

    /// The address of an endpoint that was not removed.
    pub(in crate::server) fn bound(&self, number: usize) -> Option<Addr> {
        let table = self.lock();
        let entry =
            table.endpoints.get(number).filter(|entry| entry.state != EndpointState::Removed)?;
        Some(entry.address.clone())
    }

    /// The name of an endpoint's service.
    pub(in crate::server) fn service_of(&self, number: usize) -> Option<Arc<str>> {
        let table = self.lock();
        table.endpoints.get(number).map(|entry| Arc::clone(&table.services[entry.service]))
    }

    /// The numbers of those that are paused.
    pub(in crate::server) fn paused(&self) -> Vec<usize> {
        let table = self.lock();
        let each = table.endpoints.iter().enumerate();
        each.filter(|(_, entry)| entry.state == EndpointState::Paused)
            .map(|(number, _)| number)
            .collect()
    }

    pub(in crate::server) fn set_state(&self, number: usize, state: EndpointState) {
        if let Some(entry) = self.lock().endpoints.get_mut(number) {
            entry.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_middleware::Addr;

    use super::{EndpointState, Endpoints, MOST};
    use crate::listener::preamble::Preambles;

    #[test]
    fn a_server_has_a_limited_number_of_endpoints_in_its_life_also_if_all_are_removed() {
        let endpoints = Endpoints::default();
        let preambles = Preambles::new(1);
        for number in 0..MOST {
            assert_eq!(endpoints.add(0, Addr::Memory, preambles.clone()).unwrap(), number);
            endpoints.set_state(number, EndpointState::Removed);
        }
        let error = endpoints.add(0, Addr::Memory, preambles).unwrap_err().to_string();
        assert!(error.contains("65536"), "{error}");
    }
}
