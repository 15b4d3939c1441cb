//! The state of a client, and its counters.

use std::collections::BTreeMap;
use std::fmt;

use ropewalk_middleware::CloseReason;
use ropewalk_middleware::connection::PerReason;
use tokio::time::Instant;

use super::error::Cause;

/// The state of a client.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// The client looks up the name, connects, does the handshake, or prepares the connection.
    Connecting,
    /// There is a connection.
    Ready,
    /// The last attempt failed, or the last connection ended, and the client waits before the next
    /// attempt.
    Waiting {
        /// When the next attempt begins.
        until: Instant,
        /// The error of the last attempt or connection.
        error: Cause,
    },
    /// The client accepts no new calls, and finishes those that it has.
    Draining,
    /// It has ended, and its task is gone.
    Ended,
}

/// A client's counters: its calls and connections so far.
///
/// Each accepted call is answered, failed, dropped by its caller, or pending: `calls` is always the
/// sum of these.
#[derive(Clone, Default)]
pub struct ClientCounts {
    pub(super) attempts: u64,
    pub(super) connections: u64,
    pub(super) closed: PerReason,
    pub(super) calls: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) dropped: u64,
}

impl ClientCounts {
    /// Attempts to connect.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Connections that were made and prepared.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// How many connections ended for this reason, including those that could not be prepared.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason]
    }

    /// Accepted calls.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Calls whose callers have received their answers.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Calls that failed after they were accepted.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Calls that were dropped before their end.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Calls that are queued or sent, and whose callers wait.
    pub fn pending(&self) -> u64 {
        self.calls - self.answered - self.failed - self.dropped
    }
}

impl fmt::Debug for ClientCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, connections, closed: _, calls, answered, failed, dropped } = self;
        // Of the many reasons only those that occurred.
        let counts =
            CloseReason::ALL.into_iter().map(|reason| (reason.as_str(), self.closed(reason)));
        let closed: BTreeMap<_, _> = counts.filter(|(_, n)| *n > 0).collect();
        let mut counts = f.debug_struct("ClientCounts");
        counts
            .field("attempts", attempts)
            .field("connections", connections)
            .field("closed", &closed);
        counts
            .field("calls", calls)
            .field("answered", answered)
            .field("failed", failed)
            .field("dropped", dropped);
        counts.finish()
    }
}
