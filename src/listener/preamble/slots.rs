//! The places of preambles, which all listeners of a server share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ropewalk_middleware::{Addr, Peer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::counts::{End, PreambleCounts, PreambleDrop};
use super::crowd::{Crowd, Room, Stage};
use super::log::Log;

/// How many that were dropped may still be open, as their tasks have not had a turn yet: they have descriptors as well.
const CLOSING: usize = 16;

/// How long a newcomer waits until they may be closed. They are as soon as there is a processor for them.
const SOON: Duration = Duration::from_millis(1);

/// The preambles of one server, with its listeners and workers.
#[derive(Clone, Debug)]
pub(crate) struct Preambles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Those that have a place, and those that were dropped and whose tasks are still to close them.
    open: AtomicUsize,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    crowd: Crowd,
    counts: PreambleCounts,
}

impl Preambles {
    /// At most so many at once, and at least one.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max: max.max(1), open: AtomicUsize::new(0), books: Mutex::default() }))
    }

    /// The most at once.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }

    /// The counters, all of one moment.
    pub(crate) fn counts(&self) -> PreambleCounts {
        self.lock().counts.clone()
    }

    /// Closes the oldest connection whose peer has not sent a byte yet, of the address with the most if that has more than its
    /// share, for a process that has no descriptor left. Returns whether there was one; its descriptor is free when its task has
    /// had a turn.
    pub(crate) fn drop_silent(&self) -> bool {
        let mut books = self.lock();
        let is_dropped = books.crowd.drop_silent(self.0.max);
        if is_dropped {
            books.counts.end(End::Dropped(PreambleDrop::Descriptors));
        }
        is_dropped
    }

    /// Ends those that have been silent for so long, for a server that ends. Returns when to do so again: no later than the next one
    /// has been silent for that long.
    pub(super) fn end_silent(&self, after: Duration) -> Instant {
        let now = Instant::now();
        let mut books = self.lock();
        let (dropped, next) = books.crowd.end_silent(after, now);
        (0..dropped).for_each(|_| books.counts.end(End::Dropped(PreambleDrop::Ended)));
        next.unwrap_or(now + after)
    }

    /// Whether one more may begin and none has to make room for it.
    pub(super) fn has_room(&self) -> bool {
        self.lock().crowd.len() < self.0.max
    }

    /// How many of this address have a place.
    pub(super) fn of(&self, host: Option<IpAddr>) -> usize {
        self.lock().crowd.of(host)
    }

    /// Counts one that was taken from a socket.
    pub(super) fn taken(&self) {
        self.lock().counts.begin();
    }

    /// Counts one that was taken, never had a place, and is dropped.
    pub(super) fn lost(&self, reason: PreambleDrop) {
        self.lock().counts.end(End::Dropped(reason));
    }

    /// Gives a place to one that was taken, or says when there may be one.
    pub(super) fn enter(&self, peer: &Peer, log: &Log) -> Result<Entered, Instant> {
        let (host, now) = (peer.host(), Instant::now());
        if self.0.open.load(Ordering::Acquire) >= self.0.max + CLOSING {
            return Err(now + SOON);
        }
        let mut books = self.lock();
        let made = match books.crowd.make_room(self.0.max, host, now) {
            Room::NotBefore(then) => return Err(then),
            Room::Made(made) => made,
        };
        if let Some(reason) = made {
            books.counts.end(End::Dropped(reason));
        }
        let (id, dropped) = books.crowd.insert(host, now);
        self.0.open.fetch_add(1, Ordering::AcqRel);
        let place = Place { id, from: peer.addr().clone(), preambles: self.clone(), log: log.clone() };
        Ok(Entered { place, dropped, made_room: made.is_some() })
    }

    fn end(&self, id: u64, end: End) -> bool {
        let mut books = self.lock();
        let was_there = books.crowd.remove(id);
        if was_there {
            books.counts.end(end);
        }
        was_there
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // No code of others runs under it, so it is whole whatever panicked.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A preamble that has a place.
pub(super) struct Entered {
    pub(super) place: Place,
    /// Is told when it is to make room.
    pub(super) dropped: oneshot::Receiver<PreambleDrop>,
    /// Whether another one was dropped for it.
    pub(super) made_room: bool,
}

/// The place of one preamble. It is given back with the end, or by being dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    from: Addr,
    preambles: Preambles,
    log: Log,
}

impl Place {
    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Notes how far it is, and to which address it counts. Returns whether it still has its place.
    pub(super) fn set(&self, stage: Stage, host: Option<IpAddr>) -> bool {
        self.preambles.lock().crowd.set(self.id, stage, host, Instant::now())
    }

    /// Counts the end. Returns whether it still had its place: if not, it was dropped and counted before.
    pub(super) fn end(&self, end: End) -> bool {
        self.preambles.end(self.id, end)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let panics = thread::panicking();
        let end = if panics { End::Failed } else { End::Dropped(PreambleDrop::Ended) };
        if self.end(end) && panics {
            self.log.panicked(&self.from);
        }
        self.preambles.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
