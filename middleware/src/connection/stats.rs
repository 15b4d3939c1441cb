//! What a connection counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::peer::Peer;
use super::shared::Shared;

/// One counter with one writer: the task that owns the connection. A plain load and store costs no locked instruction.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    pub(super) frames_in: Counter,
    pub(super) frames_out: Counter,
}

/// A handle on a connection's counters; cheap to clone, and it outlives the connection.
#[derive(Clone)]
pub struct Stats(pub(super) Arc<Shared>);

impl Stats {
    /// Bytes read from the peer.
    pub fn bytes_in(&self) -> u64 {
        self.0.counters.bytes_in.get()
    }

    /// Bytes the kernel (or the transport) took from us.
    pub fn bytes_out(&self) -> u64 {
        self.0.counters.bytes_out.get()
    }

    /// Frames decoded.
    pub fn frames_in(&self) -> u64 {
        self.0.counters.frames_in.get()
    }

    /// Frames encoded.
    pub fn frames_out(&self) -> u64 {
        self.0.counters.frames_out.get()
    }

    /// Adds decoded frames; for whoever runs the codec, and for it alone (one writer).
    pub fn add_frames_in(&self, n: u64) {
        self.0.counters.frames_in.add(n);
    }

    /// Adds encoded frames; for whoever runs the codec, and for it alone (one writer).
    pub fn add_frames_out(&self, n: u64) {
        self.0.counters.frames_out.add(n);
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn peer(&self) -> &Peer {
        self.0.peer()
    }

    pub(crate) fn listener(&self) -> usize {
        self.0.listener
    }

    /// How long ago the connection was accepted.
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats")
            .field("bytes_in", &self.bytes_in())
            .field("bytes_out", &self.bytes_out())
            .field("frames_in", &self.frames_in())
            .field("frames_out", &self.frames_out())
            .finish()
    }
}
