//! The slots for preambles, which all listeners of a server share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ropewalk_middleware::{Addr, Peer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::counts::{PreambleCounts, PreambleDrop, PreambleEnd, PreambleOwner};
use super::crowd::{PreambleCrowd, PreambleRoom, PreambleStage};
use super::log::PreambleLog;

/// How many dropped preambles may still be open, because their tasks have not had a turn yet: they
/// hold descriptors as well.
const CLOSING: usize = 16;

/// How long a newcomer waits before it tries again, when too many dropped preambles are still open.
/// They close as soon as their tasks get a turn.
const SOON: Duration = Duration::from_millis(1);

/// The preambles of one server, with its listeners and workers; a handle of the listeners of one of
/// its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Preambles {
    shared: Arc<PreambleShared>,
    owner: PreambleOwner,
}

#[derive(Debug)]
struct PreambleShared {
    max: usize,
    /// The preambles that have a slot, and those that were dropped but not closed yet by their
    /// tasks.
    open: AtomicUsize,
    books: Mutex<PreambleBooks>,
}

#[derive(Debug, Default)]
struct PreambleBooks {
    crowd: PreambleCrowd,
    counts: PreambleCounts,
}

impl Preambles {
    /// Slots for at most `max` preambles at once, and at least one.
    pub(crate) fn new(max: usize) -> Self {
        let shared =
            PreambleShared { max: max.max(1), open: AtomicUsize::new(0), books: Mutex::default() };
        Self { shared: Arc::new(shared), owner: PreambleOwner::of(0) }
    }

    /// The same preambles, for the listeners of one endpoint of this service; those of clones are
    /// counted together. What has passed for one service, which may accept nothing at the moment,
    /// takes no slot from the others.
    pub(crate) fn for_endpoint(&self, service: usize) -> Self {
        Self { shared: Arc::clone(&self.shared), owner: PreambleOwner::of(service) }
    }

    /// The most preambles at once.
    pub(crate) fn max(&self) -> usize {
        self.shared.max
    }

    /// The counters at one moment.
    pub(crate) fn counts(&self) -> PreambleCounts {
        self.lock().counts.clone()
    }

    /// The counters of this endpoint alone.
    pub(crate) fn of_endpoint(&self) -> PreambleCounts {
        self.owner.counts()
    }

    /// Closes the oldest connection whose peer has not sent a byte yet, that of the address with
    /// the most if this has more than its share, because the process has no descriptor left.
    /// Returns whether there was one; its descriptor is free when its task has had a turn.
    pub(crate) fn drop_silent(&self) -> bool {
        let mut books = self.lock();
        let is_dropped = books.crowd.drop_silent(self.shared.max);
        if is_dropped {
            books.counts.end(PreambleEnd::Dropped(PreambleDrop::Descriptors));
        }
        is_dropped
    }

    /// Ends the preambles of this endpoint that have been silent for `after`, because it drains or
    /// was removed. Returns when to call it again: no later than the next one is due.
    pub(super) fn end_silent(&self, after: Duration) -> Instant {
        let now = Instant::now();
        let mut books = self.lock();
        let (dropped, next) = books.crowd.end_silent(&self.owner, after, now);
        (0..dropped).for_each(|_| books.counts.end(PreambleEnd::Dropped(PreambleDrop::Ended)));
        next.unwrap_or(now + after)
    }

    /// Whether one more may begin without another one making room.
    pub(super) fn has_room(&self) -> bool {
        let books = self.lock();
        books.crowd.len() < books.crowd.limit(self.shared.max, self.owner.service)
    }

    /// How many preambles of this address have a slot.
    pub(super) fn of(&self, host: Option<IpAddr>) -> usize {
        self.lock().crowd.of(host)
    }

    /// Counts a connection that was accepted from a socket.
    pub(super) fn taken(&self) {
        self.lock().counts.begin();
        self.owner.begin();
    }

    /// Counts a connection that is dropped without ever having had a slot.
    pub(super) fn lost(&self, reason: PreambleDrop) {
        self.lock().counts.end(PreambleEnd::Dropped(reason));
        self.owner.end(PreambleEnd::Dropped(reason));
    }

    /// Gives a slot to an accepted connection, or returns when one may be free.
    pub(super) fn enter(&self, peer: &Peer, log: &PreambleLog) -> Result<Admitted, Instant> {
        let host = peer.host();
        let now = Instant::now();
        let mut books = self.lock();
        let max = books.crowd.limit(self.shared.max, self.owner.service);
        if self.shared.open.load(Ordering::Acquire) >= max + CLOSING {
            return Err(now + SOON);
        }
        let made = match books.crowd.make_room(max, host, now) {
            PreambleRoom::NotBefore(then) => return Err(then),
            PreambleRoom::Made(made) => made,
        };
        if let Some(reason) = made {
            books.counts.end(PreambleEnd::Dropped(reason));
        }
        let (id, dropped) = books.crowd.insert(host, self.owner.clone(), now);
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        let slot = PreambleSlot {
            id,
            from: peer.addr().clone(),
            preambles: self.clone(),
            log: log.clone(),
        };
        Ok(Admitted { slot, dropped, made_room: made.is_some() })
    }

    fn end(&self, id: u64, end: PreambleEnd) -> bool {
        let mut books = self.lock();
        let was_there = books.crowd.remove(id);
        if was_there {
            books.counts.end(end);
            self.owner.end(end);
        }
        was_there
    }

    fn lock(&self) -> MutexGuard<'_, PreambleBooks> {
        // No user code runs under the lock, so the state is consistent even after a panic.
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A preamble that has a slot.
pub(super) struct Admitted {
    pub(super) slot: PreambleSlot,
    /// Notified when the preamble has to make room.
    pub(super) dropped: oneshot::Receiver<PreambleDrop>,
    /// Whether another one was dropped for it.
    pub(super) made_room: bool,
}

/// The slot of one preamble, released by [`end`](Self::end) or by its drop.
#[derive(Debug)]
pub(super) struct PreambleSlot {
    id: u64,
    from: Addr,
    preambles: Preambles,
    log: PreambleLog,
}

impl PreambleSlot {
    pub(super) fn log(&self) -> &PreambleLog {
        &self.log
    }

    /// Notes the stage, and the address to which it counts. Returns whether it still has its slot.
    pub(super) fn set(&self, stage: PreambleStage, host: Option<IpAddr>) -> bool {
        self.preambles.lock().crowd.set(self.id, stage, host, Instant::now())
    }

    /// Counts the end. Returns whether it still had its slot: if not, it was dropped and counted
    /// before.
    pub(super) fn end(&self, end: PreambleEnd) -> bool {
        self.preambles.end(self.id, end)
    }
}

impl Drop for PreambleSlot {
    fn drop(&mut self) {
        let panics = thread::panicking();
        let end =
            if panics { PreambleEnd::Failed } else { PreambleEnd::Dropped(PreambleDrop::Ended) };
        if self.end(end) && panics {
            self.log.panicked(&self.from);
        }
        self.preambles.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}
