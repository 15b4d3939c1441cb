//! The state shared by a connection and its handles: its peer, its counters, its end.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::activity::Activity;
use super::addr::Addr;
use super::budget::MemoryBudget;
use super::closing::ClosingState;
use super::deadlines::ReadDeadlines;
use super::info::Extensions;
use super::observer::{ByteObserver, ObserverSlot};
use super::peer::Peer;
use super::stats::Counters;

/// The part of a connection its handles share.
///
/// Its alignment makes it 8 bytes larger. glibc puts it between the two aligned blocks of tokio's
/// task and socket, and with the smaller size leaves gaps before those that are 128 bytes larger.
#[derive(Debug)]
#[repr(align(16))]
pub(super) struct ConnectionShared {
    pub(super) id: u64,
    /// 32 bits, like the field below: together the two take 8 bytes.
    listener: u32,
    /// The size of its buffers: see `budget.rs`.
    pub(super) buffered: AtomicU32,
    pub(super) budget: Option<MemoryBudget>,
    peer: Peer,
    /// Values that most connections don't have.
    rare: OnceLock<Box<Rare>>,
    pub(super) opened: Instant,
    pub(super) counters: Counters,
    /// After this many frames of the peer no more are taken.
    pub(super) max_frames: AtomicU64,
    pub(super) closing: ClosingState,
    pub(super) activity: Activity,
}

#[derive(Debug, Default)]
struct Rare {
    /// The same peer with data that became known later.
    known: OnceLock<Peer>,
    /// The local address, if it was noted.
    local: OnceLock<Addr>,
    /// Deadlines that a handle has set.
    read_deadlines: Mutex<Option<ReadDeadlines>>,
    extensions: Extensions,
    /// Made for a connection that is observed.
    observer: OnceLock<Box<ObserverSlot>>,
}

impl ConnectionShared {
    pub(super) fn new(peer: Peer, listener: usize) -> Self {
        // Never reused within a process, so a log line names one connection.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            listener: u32::try_from(listener).unwrap_or(u32::MAX),
            buffered: AtomicU32::new(0),
            budget: None,
            peer,
            rare: OnceLock::new(),
            opened: Instant::now(),
            counters: Counters::default(),
            max_frames: AtomicU64::new(u64::MAX),
            closing: ClosingState::default(),
            activity: Activity::default(),
        }
    }

    pub(super) fn listener(&self) -> usize {
        self.listener as usize
    }

    #[inline]
    pub(super) fn has_rare(&self) -> bool {
        self.rare.get().is_some()
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    pub(super) fn peer(&self) -> &Peer {
        self.rare.get().and_then(|rare| rare.known.get()).unwrap_or(&self.peer)
    }

    /// Replaces the peer by one with more data; only the first call counts.
    pub(super) fn know(&self, peer: Peer) {
        drop(self.rare().known.set(peer));
    }

    pub(super) fn local(&self) -> Option<&Addr> {
        self.rare.get()?.local.get()
    }

    /// Only the first call counts.
    pub(super) fn set_local(&self, addr: Addr) {
        drop(self.rare().local.set(addr));
    }

    /// The deadlines that a handle has set, unless the connection's owner has replaced them since.
    #[cold]
    pub(super) fn read_deadlines(&self) -> Option<ReadDeadlines> {
        *self.rare.get()?.read_deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_read_deadlines(&self, deadlines: ReadDeadlines) {
        *self.rare().read_deadlines.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(deadlines);
    }

    /// Called when the connection's owner sets other deadlines.
    pub(super) fn forget_read_deadlines(&self) {
        if let Some(rare) = self.rare.get() {
            *rare.read_deadlines.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The stored values, if there are any.
    pub(super) fn extensions(&self) -> Option<&Extensions> {
        self.rare.get().map(|rare| &rare.extensions)
    }

    /// The same, to store a value.
    pub(super) fn extensions_to_fill(&self) -> &Extensions {
        &self.rare().extensions
    }

    /// The observer of the bytes, if there is one.
    pub(super) fn observer(&self) -> Option<Arc<dyn ByteObserver>> {
        self.rare.get()?.observer.get()?.get()
    }

    /// The place of an observer, to set it.
    pub(super) fn observer_to_set(&self) -> &ObserverSlot {
        self.rare().observer.get_or_init(Box::default)
    }

    /// Notes that bytes have moved until now.
    pub(super) fn moved(&self) {
        self.activity
            .set_moved(u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// When bytes last moved, as far as it was noted.
    pub(super) fn idle_since(&self) -> Instant {
        self.opened + Duration::from_nanos(self.activity.moved())
    }

    /// Whether the peer's first complete frame is expected and has not arrived.
    pub(super) fn is_silent(&self) -> bool {
        self.activity.wants_first_frame() && self.counters.frames_in.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectionShared;

    /// After a change of its size, measure the memory of idle connections again: with an even
    /// number glibc's gaps were larger by 128 bytes a connection.
    #[test]
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    fn its_size_is_one_that_leaves_small_gaps() {
        assert_eq!(size_of::<ConnectionShared>() / 16 % 2, 1);
    }
}
