//! The deadlines of connections that are drained by a handle while the server runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropewalk_middleware::ConnectionInfo;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::registry::Registry;

/// The deadlines. One task keeps them all: a connection may be drained again and again, each time
/// with a day, and a timer for each time would have no bound.
#[derive(Debug, Default)]
pub(in crate::server) struct Deadlines {
    table: Mutex<DeadlineTable>,
    /// Wakes the task when an earlier deadline may have come.
    pub(in crate::server) changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct DeadlineTable {
    /// By the numbers of connections.
    until: HashMap<u64, Instant>,
    /// Whether the task runs.
    is_kept: bool,
}

impl Deadlines {
    fn lock(&self) -> MutexGuard<'_, DeadlineTable> {
        // Only plain values change under it, so they are consistent even after a panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a deadline; an earlier one stands. Returns whether a task has to be started.
    pub(in crate::server) fn note(&self, connections: &[ConnectionInfo], until: Instant) -> bool {
        let mut table = self.lock();
        for connection in connections {
            let known = table.until.entry(connection.id()).or_insert(until);
            *known = until.min(*known);
        }
        !std::mem::replace(&mut table.is_kept, true)
    }

    /// Aborts the connections whose time is over, and forgets those that have gone. Returns the next
    /// deadline; `None` when none is left, and then the task ends.
    pub(in crate::server) fn look(&self, registry: &Registry) -> Option<Instant> {
        let now = Instant::now();
        let mut table = self.lock();
        let open = registry.connections(|connection| table.until.contains_key(&connection.id()));
        let deadline = |connection: &ConnectionInfo| table.until.get(&connection.id()).copied();
        let mut late = Vec::new();
        let mut left = HashMap::new();
        for connection in open {
            match deadline(&connection).filter(|until| *until > now) {
                Some(until) => drop(left.insert(connection.id(), until)),
                None => late.push(connection),
            }
        }
        let next = left.values().min().copied();
        table.until = left;
        table.is_kept = next.is_some();
        drop(table);
        late.iter().for_each(ConnectionInfo::abort);
        next
    }
}
