//! How the connections ended in a drain.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ropewalk_middleware::CloseReason;
use ropewalk_middleware::connection::PerReason;

use crate::server::books::counts::Counts;

/// How a server's connections ended, from the beginning of its drain to its end. See
/// [`Handle::drain_report`](crate::Handle::drain_report).
///
/// A drain with enough time cuts no connection short. It cuts short the connections of peers that
/// did not read their answers, of handlers that were not done at the deadline, and those that
/// waited for a slot under a limit until then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    closed: PerReason,
    unserved: u64,
    blocked: u64,
}

impl DrainReport {
    /// The report of the time between two counts.
    pub(in crate::server) fn new(begin: &Counts, end: &Counts, unserved: u64) -> Self {
        let mut closed = PerReason::default();
        for reason in CloseReason::ALL {
            closed[reason] = end.closed(reason) - begin.closed(reason);
        }
        Self { closed, unserved, blocked: end.active() }
    }

    /// Connections that ended for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason]
    }

    /// The reasons that occurred, with their counts.
    pub fn reasons(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        CloseReason::ALL
            .into_iter()
            .map(|reason| (reason, self.closed(reason)))
            .filter(|(_, n)| *n > 0)
    }

    /// Connections made before the drain that were not served by its deadline, or by the time the
    /// server stopped: no slot became free for them, or their handshake was not complete. Peers
    /// that were silent for 2 s instead of sending a handshake or a PROXY header are not included.
    /// [`Counts`] does not count these connections as accepted.
    pub fn unserved(&self) -> u64 {
        self.unserved
    }

    /// Connections that were abandoned, because their handlers block the threads they run on.
    pub fn blocked(&self) -> u64 {
        self.blocked
    }

    /// All connections that the server cut short: aborted at the deadline or by a stop, dropped
    /// because the peer accepted no answers, not served, or abandoned. Those that ended by
    /// themselves, by their peer or by an error are not included.
    pub fn cut(&self) -> u64 {
        let cut = self.reasons().filter(|(reason, _)| cuts(*reason)).map(|(_, n)| n).sum::<u64>();
        cut + self.unserved + self.blocked
    }
}

/// Whether this reason means that the server ended a connection that it might have finished with
/// more time.
fn cuts(reason: CloseReason) -> bool {
    !matches!(
        reason,
        CloseReason::Done
            | CloseReason::PeerReset
            | CloseReason::CodecError
            | CloseReason::ServiceError
            | CloseReason::Panic
            | CloseReason::Drained
            | CloseReason::Refused
            | CloseReason::RefusedAtOnce
            | CloseReason::FirstFrameTimeout
            | CloseReason::FrameTimeout
            | CloseReason::IdleTimeout
    )
}

/// The data for the report, recorded while a server ends.
#[derive(Debug, Default)]
pub(in crate::server) struct DrainRecord {
    /// The counts when the server was told to end.
    begin: OnceLock<Counts>,
    unserved: AtomicU64,
    report: OnceLock<DrainReport>,
    /// The server's future was dropped before its end.
    dropped: AtomicBool,
}

impl DrainRecord {
    /// The server is told to end, for the first time or again.
    pub(in crate::server) fn begin(&self, counts: impl FnOnce() -> Counts) {
        self.begin.get_or_init(counts);
    }

    /// Records that this many connections were accepted and will not be served any more.
    pub(in crate::server) fn unserved(&self, connections: usize) {
        self.unserved.fetch_add(connections as u64, Ordering::AcqRel);
    }

    /// The last connection is gone or abandoned.
    pub(in crate::server) fn end(&self, counts: &Counts) {
        let begin = self.begin.get_or_init(|| counts.clone());
        self.report
            .get_or_init(|| DrainReport::new(begin, counts, self.unserved.load(Ordering::Acquire)));
    }

    pub(in crate::server) fn report(&self) -> Option<&DrainReport> {
        self.report.get()
    }

    /// Records that the server's future is dropped. It matters only until the server has ended.
    pub(in crate::server) fn drop(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(super) fn was_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }
}
