//! What outlives the bytes of a connection: its peer, its counters, its end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::activity::Activity;
use super::budget::MemoryBudget;
use super::closing::ClosingState;
use super::peer::{Addr, Peer};
use super::stats::Counters;

/// The part of a connection its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u64,
    /// Narrow, as the field below: side by side they take no more than either alone would.
    listener: u32,
    /// What its buffers take: see `budget.rs`.
    pub(super) buffered: AtomicU32,
    pub(super) budget: Option<MemoryBudget>,
    peer: Peer,
    /// The same peer, when more became known of it later. Boxed, because of most peers nothing more becomes known.
    known: OnceLock<Box<Peer>>,
    /// Its address at our end, once it was asked for. Boxed, because that is rare.
    pub(super) local: OnceLock<Box<Addr>>,
    pub(super) opened: Instant,
    pub(super) counters: Counters,
    pub(super) closing: ClosingState,
    pub(super) activity: Activity,
}

impl Shared {
    pub(super) fn new(peer: Peer, listener: usize) -> Self {
        // Never reused within a process, so a log line names one connection.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            listener: u32::try_from(listener).unwrap_or(u32::MAX),
            buffered: AtomicU32::new(0),
            budget: None,
            peer,
            known: OnceLock::new(),
            local: OnceLock::new(),
            opened: Instant::now(),
            counters: Counters::default(),
            closing: ClosingState::default(),
            activity: Activity::default(),
        }
    }

    pub(super) fn listener(&self) -> usize {
        self.listener as usize
    }

    pub(super) fn peer(&self) -> &Peer {
        self.known.get().map_or(&self.peer, |known| known)
    }

    /// The first better reason stands.
    pub(super) fn know(&self, peer: Peer) {
        drop(self.known.set(Box::new(peer)));
    }

    /// Notes that bytes have moved until now.
    pub(super) fn moved(&self) {
        self.activity.set_moved(u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// Since when no byte has moved, as far as it was noted.
    pub(super) fn idle_since(&self) -> Instant {
        self.opened + Duration::from_nanos(self.activity.moved())
    }

    /// Whether its peer's first whole frame is still to come.
    pub(super) fn is_silent(&self) -> bool {
        self.activity.wants_first_frame() && self.counters.frames_in.get() == 0
    }
}
