//! How much memory the buffers of all connections take together, and which of them have to wait when it is too much.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use super::{Closing, Connection};

/// A budget for the buffers of many connections: it counts them, and says which connections may not read.
///
/// It decides nothing itself. Its owner, the server, is woken when a mark is passed, looks at the connections and sets
/// the next marks. A connection tells what its buffers take when that changes ([`Connection::set_buffered`]), which
/// costs one atomic addition, and asks before it reads ([`Connection::may_read`]), which costs a relaxed load.
///
/// ```
/// use std::task::Waker;
/// use ropewalk_middleware::connection::MemoryBudget;
/// use ropewalk_middleware::{Addr, Connection, Peer, Stream};
///
/// let budget = MemoryBudget::new(1024 * 1024, Waker::noop().clone());
/// let (ours, _theirs) = tokio::io::duplex(1024);
/// let connection = Connection::new(Stream::from_io(ours), Peer::new(Addr::Memory)).with_budget(&budget);
/// connection.set_buffered(4096);
/// assert_eq!(budget.in_use(), 4096);
/// drop(connection);
/// assert_eq!(budget.in_use(), 0);
/// ```
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    max: usize,
    in_use: AtomicUsize,
    /// The owner is woken when `in_use` comes to this or more.
    rises_to: AtomicUsize,
    /// The owner is woken when `in_use` comes below this.
    sinks_below: AtomicUsize,
    /// Connections whose buffers take this much or more do not read.
    pause_from: AtomicUsize,
    owner: Waker,
}

/// When the owner of a [`MemoryBudget`] looks at it again, and which connections do not read until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// At this many bytes in use, or more.
    pub rises_to: usize,
    /// Below this many bytes in use.
    pub sinks_below: usize,
    /// Connections whose buffers take this much or more do not read; with [`usize::MAX`] all do.
    pub pause_from: usize,
}

impl MemoryBudget {
    /// A budget of so many bytes, with the waker of its owner. Until marks are set nobody is woken, and all may read.
    ///
    /// The waker is called while a connection is polled or dropped, so the owner may not hold a lock then that is held
    /// while either happens.
    #[must_use]
    pub fn new(max: usize, owner: Waker) -> Self {
        let (in_use, rises_to) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let (sinks_below, pause_from) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        Self(Arc::new(Shared { max, in_use, rises_to, sinks_below, pause_from, owner }))
    }

    /// The bytes there are to use.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// The bytes the buffers of all its connections take.
    pub fn in_use(&self) -> usize {
        self.0.in_use.load(Ordering::Relaxed)
    }

    /// Sets other marks. Returns from which size on connections did not read until now: those of them that may read
    /// again are for the owner to wake, with [`Closing::resume`].
    pub fn set_marks(&self, marks: Marks) -> usize {
        self.0.rises_to.store(marks.rises_to, Ordering::Relaxed);
        self.0.sinks_below.store(marks.sinks_below, Ordering::Relaxed);
        // This store comes before the owner looks for paused connections, and a connection sets its flag before it
        // loads this: so no connection is missed.
        self.0.pause_from.swap(marks.pause_from, Ordering::SeqCst)
    }

    fn change(&self, before: usize, now: usize) {
        let shared = &*self.0;
        let is_due = if now > before {
            let more = now - before;
            let in_use = shared.in_use.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            in_use >= shared.rises_to.load(Ordering::Relaxed)
        } else {
            let less = before - now;
            let in_use = shared.in_use.fetch_sub(less, Ordering::Relaxed).saturating_sub(less);
            in_use < shared.sinks_below.load(Ordering::Relaxed)
        };
        if is_due {
            shared.owner.wake_by_ref();
        }
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget").field("max", &self.max()).field("in_use", &self.in_use()).finish_non_exhaustive()
    }
}

impl Connection {
    /// The same connection with its buffers counted in this budget. For the server, before it hands the connection on:
    /// once a handle on the connection exists it is too late, and nothing is changed.
    #[must_use = "it is the connection from here on: dropped, it closes"]
    pub fn with_budget(mut self, budget: &MemoryBudget) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.stats.0) {
            shared.budget = Some(budget.clone());
        }
        self
    }

    /// Says how many bytes its buffers take now. Only the owner of the buffers may call it (one writer). When the
    /// connection is dropped they count as gone. Without a budget this does nothing.
    pub fn set_buffered(&self, bytes: usize) {
        let Some(budget) = &self.shared().budget else { return };
        // Buffers of over 4 GiB count as 4 GiB.
        let now = u32::try_from(bytes).unwrap_or(u32::MAX);
        // It has one writer.
        let before = self.shared().buffered.load(Ordering::Relaxed);
        if now != before {
            self.shared().buffered.store(now, Ordering::Relaxed);
            budget.change(before as usize, now as usize);
        }
    }

    /// Whether its budget leaves it room to read. For the owner of the buffers, before it reads: where this is false it
    /// does not, after it has said what the buffers take and has had itself woken by [`Closing::watch`].
    #[inline]
    pub fn may_read(&self) -> bool {
        let Some(budget) = &self.shared().budget else { return true };
        budget.0.pause_from.load(Ordering::Relaxed) == usize::MAX || self.may_read_now(budget)
    }

    #[cold]
    fn may_read_now(&self, budget: &MemoryBudget) -> bool {
        let closing = &self.shared().closing;
        // The flag is set before the mark is loaded: either the mark is the new one, or its owner sees the flag.
        closing.set_paused(true);
        let may_read = self.closing().buffered() < budget.0.pause_from.load(Ordering::SeqCst);
        if may_read {
            closing.set_paused(false);
        }
        may_read
    }
}

impl Closing {
    /// How many bytes of memory the connection's buffers take, where they are counted in a [`MemoryBudget`].
    pub fn buffered(&self) -> usize {
        self.0.buffered.load(Ordering::Relaxed) as usize
    }

    /// Wakes a connection that found no room to read in its [`MemoryBudget`]; any other one notices nothing.
    pub fn resume(&self) {
        self.0.closing.resume();
    }
}
