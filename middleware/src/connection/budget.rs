//! The memory that the buffers of all connections take together, and which connections have to wait
//! when it is too much.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use super::{Closing, Connection};

/// A budget for the buffers of many connections: it counts them, and says which connections may not
/// read.
///
/// It decides nothing itself. Its owner, the server, is woken when a mark is passed, looks at the
/// connections and sets the next marks. A connection reports the size of its buffers when it
/// changes ([`Connection::set_buffered`]), which costs one atomic addition, and asks before it
/// reads ([`Connection::may_read`]), which costs a relaxed load.
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
pub struct MemoryBudget(Arc<BudgetState>);

struct BudgetState {
    max: usize,
    in_use: AtomicUsize,
    /// The owner is woken when `in_use` rises to this or more.
    rises_to: AtomicUsize,
    /// The owner is woken when `in_use` sinks below this.
    sinks_below: AtomicUsize,
    /// Connections whose buffers take this much or more do not read.
    pause_from: AtomicUsize,
    owner: Waker,
}

/// When the owner of a [`MemoryBudget`] is woken next, and which connections do not read until
/// then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// At this many bytes in use, or more.
    pub rises_to: usize,
    /// Below this many bytes in use.
    pub sinks_below: usize,
    /// Connections whose buffers take this much or more do not read; with [`usize::MAX`] all
    /// connections read.
    pub pause_from: usize,
}

impl MemoryBudget {
    /// A budget of `max` bytes, with the waker of its owner. Until marks are set the owner is not
    /// woken, and all connections may read.
    ///
    /// The waker is called while a connection is polled or dropped, so it must not take a lock that
    /// is held during either.
    #[must_use]
    pub fn new(max: usize, owner: Waker) -> Self {
        let in_use = AtomicUsize::new(0);
        let rises_to = AtomicUsize::new(usize::MAX);
        let sinks_below = AtomicUsize::new(0);
        let pause_from = AtomicUsize::new(usize::MAX);
        Self(Arc::new(BudgetState { max, in_use, rises_to, sinks_below, pause_from, owner }))
    }

    /// The size of the budget in bytes.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// The bytes that the buffers of all its connections take.
    pub fn in_use(&self) -> usize {
        self.0.in_use.load(Ordering::Relaxed)
    }

    /// Sets new marks. Returns the previous [`Marks::pause_from`]: the owner has to wake the
    /// connections that may read again, with [`Closing::resume`].
    pub fn set_marks(&self, marks: Marks) -> usize {
        self.0.rises_to.store(marks.rises_to, Ordering::Relaxed);
        self.0.sinks_below.store(marks.sinks_below, Ordering::Relaxed);
        // This store happens before the owner looks for paused connections, and a connection sets
        // its flag before it loads this value: so no connection is missed.
        self.0.pause_from.swap(marks.pause_from, Ordering::SeqCst)
    }

    /// A reference that does not keep the budget.
    pub(crate) fn downgrade(&self) -> BudgetRef {
        BudgetRef(Arc::downgrade(&self.0))
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

/// Tells a budget from others, and does not keep it.
#[derive(Clone)]
pub(crate) struct BudgetRef(Weak<BudgetState>);

impl BudgetRef {
    pub(crate) fn is_of(&self, budget: &MemoryBudget) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&budget.0))
    }

    /// Whether the budget is still in use.
    pub(crate) fn lives(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl fmt::Debug for BudgetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetRef").field("lives", &self.lives()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("max", &self.max())
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// The same connection with its buffers counted in this budget. The server calls it before it
    /// passes the connection on: if a handle on the connection exists already, nothing is changed.
    #[must_use = "it is the connection from here on: dropped, it closes"]
    pub fn with_budget(mut self, budget: &MemoryBudget) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.stats.0) {
            shared.budget = Some(budget.clone());
        }
        self
    }

    /// The budget in which its buffers are counted, if there is one.
    pub fn memory_budget(&self) -> Option<&MemoryBudget> {
        self.shared().budget.as_ref()
    }

    /// Reports how many bytes its buffers take now. Only the owner of the buffers may call it (one
    /// writer). A dropped connection counts as 0. Without a budget this does nothing.
    pub fn set_buffered(&self, bytes: usize) {
        let Some(budget) = &self.shared().budget else { return };
        // Buffers of over 4 GiB count as 4 GiB.
        let now = u32::try_from(bytes).unwrap_or(u32::MAX);
        // The count has one writer.
        let before = self.shared().buffered.load(Ordering::Relaxed);
        if now != before {
            self.shared().buffered.store(now, Ordering::Relaxed);
            budget.change(before as usize, now as usize);
        }
    }

    /// Whether its budget lets it read. The owner of the buffers asks before it reads, after it has
    /// reported the size of its buffers and has registered with [`Closing::watch`]. If the answer
    /// is no, it does not read.
    #[inline]
    pub fn may_read(&self) -> bool {
        let Some(budget) = &self.shared().budget else { return true };
        budget.0.pause_from.load(Ordering::Relaxed) == usize::MAX || self.may_read_now(budget)
    }

    #[cold]
    fn may_read_now(&self, budget: &MemoryBudget) -> bool {
        let closing = &self.shared().closing;
        // The flag is set before the mark is loaded: either the new mark is loaded, or the budget's
        // owner sees the flag.
        closing.set_paused(true);
        let may_read = self.closing().buffered() < budget.0.pause_from.load(Ordering::SeqCst);
        if may_read {
            closing.set_paused(false);
        }
        may_read
    }
}

impl Closing {
    /// How many bytes of memory the connection's buffers take, if they are counted in a
    /// [`MemoryBudget`].
    pub fn buffered(&self) -> usize {
        self.0.buffered.load(Ordering::Relaxed) as usize
    }

    /// Wakes a connection that its [`MemoryBudget`] has kept from reading; other connections are
    /// not affected.
    pub fn resume(&self) {
        self.0.closing.resume();
    }
}
