//! The endpoints of a server and their states.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropewalk_middleware::Addr;

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
    pub(in crate::server) fn add(&self, service: usize, address: Addr) -> usize {
        let mut table = self.lock();
        table.endpoints.push(Entry { service, address, state: EndpointState::Open });
        table.endpoints.len() - 1
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

    /// The address of an endpoint.
    pub(in crate::server) fn address(&self, number: usize) -> Option<Addr> {
        self.lock().endpoints.get(number).map(|entry| entry.address.clone())
    }

    /// The state of an endpoint; `None` if no endpoint has this number.
    pub(in crate::server) fn state(&self, number: usize) -> Option<EndpointState> {
        self.lock().endpoints.get(number).map(|entry| entry.state)
    }

    pub(in crate::server) fn set_state(&self, number: usize, state: EndpointState) {
        if let Some(entry) = self.lock().endpoints.get_mut(number) {
            entry.state = state;
        }
    }
}
