//! An open connection's entry in the books.

use std::sync::Arc;

use ropewalk_middleware::{CloseReason, Closing, Connection};

use super::log::LogLimits;
use super::registry::RegistrySlot;
use super::shared::Shared;

/// An open connection's entry in the books; dropping it closes the entry with the connection's
/// reason.
#[derive(Debug)]
pub(in crate::server) struct OpenEntry {
    place: RegistrySlot,
    /// Whether the task's waker is registered for the abort signal. A spawned task's waker never
    /// changes, so once is enough. Here and not in the task, because it fits into the gap.
    pub(in crate::server) watched: bool,
    pub(in crate::server) closing: Closing,
    server: Arc<Shared>,
}

impl Shared {
    /// Enters an accepted connection in the books.
    pub(in crate::server) fn enter(self: &Arc<Self>, connection: &Connection) -> OpenEntry {
        let closing = connection.closing();
        self.lock().enter(&closing);
        let place = self.registry.add(closing.clone());
        OpenEntry { place, watched: false, closing, server: Arc::clone(self) }
    }
}

impl OpenEntry {
    /// The limits of the server's log.
    pub(in crate::server) fn log(&self) -> &LogLimits {
        &self.server.log
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        // A task that is dropped with its runtime has no reason yet: it was aborted.
        let reason = self.closing.set_reason(CloseReason::Aborted);
        self.server.leave(self.place, &self.closing, reason);
    }
}
