//! The memory budget of a server: which connections wait, and which end, when the buffers of all
//! connections use too much.
//!
//! From 90 % of the budget on, the largest connections do not read: as many as needed for the
//! others to fit into 80 %. At 100 %, or when 80 % is not reached within [`PATIENCE`], the largest
//! are aborted, and at 100 % no connection reads until they are gone.
//!
//! Below 90 % no connections are checked. Above, the connection whose buffers have grown or shrunk
//! checks all connections, once for each further 64th of the budget in use; and a task does so once
//! in each [`PATIENCE`].

mod keep;
mod machine;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use ropewalk_middleware::connection::{Marks, MemoryBudget};
use ropewalk_middleware::{CloseReason, Closing};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::books::registry::Registry;

pub(super) use self::keep::keep;

/// How long memory may be short before the largest connections are aborted.
const PATIENCE: Duration = Duration::from_secs(1);

/// The part of the machine's memory that is the default budget: a quarter.
const SHARE: usize = 4;

/// The default budget if the machine's memory is not known: 1 GiB.
const UNKNOWN: usize = 1024 * 1024 * 1024;

/// The connections are checked again when a further part of the budget is in use: a 64th.
const STEP: usize = 64;

/// Or at least this many bytes, if the budget is small.
const LEAST_STEP: usize = 16 * 1024;

/// The default budget of a server.
pub(super) fn default_budget() -> usize {
    share(machine::memory())
}

fn share(memory: Option<usize>) -> usize {
    memory.map_or(UNKNOWN, |bytes| bytes / SHARE)
}

/// How much memory the buffers of a server's connections use: see
/// [`Handle::memory`](super::Handle::memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    in_use: usize,
    budget: usize,
    aborted: u64,
}

impl MemoryUse {
    /// The bytes that the buffers of all connections use now.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// The bytes they may use; `None` if there is no limit.
    pub fn budget(&self) -> Option<usize> {
        (self.budget != usize::MAX).then_some(self.budget)
    }

    /// How many connections were aborted because they used too much.
    pub fn aborted(&self) -> u64 {
        self.aborted
    }
}

/// A server's budget, and the state for enforcing it.
#[derive(Debug)]
pub(super) struct Memory {
    budget: MemoryBudget,
    /// Locked while the connections are checked, and never while one of them is woken.
    state: Mutex<Supply>,
    aborted: AtomicU64,
    /// Notified when memory becomes short.
    became_short: Notify,
}

/// Whether memory is short, and since when. A shortage begins at 90 % and ends below 80 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    Plenty,
    Short {
        /// The beginning of the shortage, or the time when the largest were last aborted because it
        /// had lasted too long.
        since: Instant,
        /// Bytes of connections that were aborted long ago and still use memory, because their
        /// handlers block or keep it. They are not waited for any more.
        stuck: usize,
    },
}

/// The result of checking the connections: the next marks, and the connections to abort.
struct Shed {
    marks: Marks,
    victims: Vec<Closing>,
}

impl Memory {
    /// The owner is woken when a mark is passed, and then calls [`look`](Self::look).
    pub(super) fn new(bytes: usize, owner: Waker) -> Self {
        let budget = MemoryBudget::new(bytes.max(1), owner);
        budget.set_marks(plenty(budget.max()));
        let aborted = AtomicU64::new(0);
        let became_short = Notify::new();
        Self { budget, state: Mutex::new(Supply::Plenty), aborted, became_short }
    }

    pub(super) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(super) fn in_use(&self) -> MemoryUse {
        let in_use = self.budget.in_use();
        let budget = self.budget.max();
        MemoryUse { in_use, budget, aborted: self.aborted.load(Ordering::Relaxed) }
    }

    /// Checks the bytes in use and decides which connections wait and which end. With `tick` it is
    /// called because time has passed.
    pub(super) fn look(&self, registry: &Registry, tick: bool) {
        // Changes meanwhile may pass marks that are not set yet. More than once in a row is rare,
        // and the task covers that case.
        for _ in 0..4 {
            let (marks, victims, paused_from) = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let Shed { marks, victims } = self.decide(registry, &mut state, tick);
                (marks, victims, self.budget.set_marks(marks))
            };
            for closing in victims {
                closing.abort();
            }
            if marks.pause_from > paused_from {
                registry.each(|closing| {
                    if closing.buffered() < marks.pause_from {
                        closing.resume();
                    }
                });
            }
            let now = self.budget.in_use();
            if tick || now < marks.rises_to && now >= marks.sinks_below {
                return;
            }
        }
    }

    fn decide(&self, registry: &Registry, state: &mut Supply, tick: bool) -> Shed {
        let in_use = self.budget.in_use();
        let max = self.budget.max();
        let now = Instant::now();
        let is_short = in_use >= if *state == Supply::Plenty { high(max) } else { low(max) };
        if !is_short {
            *state = Supply::Plenty;
            return Shed { marks: plenty(max), victims: Vec::new() };
        }
        let (since, stuck) = match *state {
            Supply::Plenty => {
                self.became_short.notify_one();
                (now, 0)
            }
            Supply::Short { since, stuck } => (since, stuck),
        };
        let impatient = tick && now >= since + PATIENCE;
        let crowd = Holders::look(registry, in_use);
        let stuck = if impatient { crowd.leaving } else { stuck.min(crowd.leaving) };
        *state = Supply::Short { since: if impatient { now } else { since }, stuck };
        let shed = crowd.shed(max, in_use, stuck, impatient);
        self.aborted.fetch_add(shed.victims.len() as u64, Ordering::Relaxed);
        shed
    }

    /// Since when memory is short.
    fn short_since(&self) -> Option<Instant> {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            Supply::Plenty => None,
            Supply::Short { since, .. } => Some(since),
        }
    }
}

/// The mark from which on memory is short: 90 %.
fn high(max: usize) -> usize {
    max - max / 10
}

/// The mark below which it is no longer short: 80 %.
fn low(max: usize) -> usize {
    max - max / 5
}

fn plenty(max: usize) -> Marks {
    Marks { rises_to: high(max), sinks_below: 0, pause_from: usize::MAX }
}

/// When this many more bytes are in use, the connections are checked again.
fn step(max: usize) -> usize {
    (max / STEP).max(LEAST_STEP)
}

/// The connections of a server whose buffers use memory.
struct Holders {
    /// The largest first, without those that are ending already.
    holders: Vec<(usize, Closing)>,
    /// The bytes that these use.
    kept: usize,
    /// All other bytes in use. They will be freed, because their connections were aborted or are
    /// ending.
    leaving: usize,
}

impl Holders {
    fn look(registry: &Registry, in_use: usize) -> Self {
        let mut holders = registry.holders();
        holders.retain(|(_, closing)| {
            !closing.is_aborted() && closing.reason() != Some(CloseReason::MemoryBudget)
        });
        holders.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        let kept = holders.iter().map(|(bytes, _)| bytes).sum();
        Self { holders, kept, leaving: in_use.saturating_sub(kept) }
    }

    /// Decides which connections end and which wait. Bytes that are `stuck` are not waited for.
    fn shed(self, max: usize, in_use: usize, stuck: usize, impatient: bool) -> Shed {
        let Self { holders, mut kept, .. } = self;
        let mut holders = holders.into_iter();
        let mut victims = Vec::new();
        // A little more than is needed, so that growth of other connections until the next check
        // doesn't use up the freed memory.
        let at_full = max.saturating_sub(2 * step(max)).max(low(max));
        let enough = if impatient { low(max) } else { at_full };
        let full = max.saturating_add(stuck);
        while (impatient || in_use >= full)
            && kept >= enough
            && let Some((bytes, closing)) = holders.next()
        {
            closing.set_reason(CloseReason::MemoryBudget);
            victims.push(closing);
            kept = kept.saturating_sub(bytes);
        }
        let mut pause_from = usize::MAX;
        while kept >= low(max)
            && let Some((bytes, _)) = holders.next()
        {
            pause_from = bytes;
            kept = kept.saturating_sub(bytes);
        }
        let further = in_use.saturating_add(step(max));
        let marks = if in_use >= full {
            // A step below, so that bytes that come and go at the limit don't cause a check of all
            // connections each time it is passed.
            let sinks_below = full.saturating_sub(step(max)).max(at_full.saturating_add(stuck));
            Marks { rises_to: further, sinks_below, pause_from: 0 }
        } else {
            Marks { rises_to: further.min(full), sinks_below: low(max), pause_from }
        };
        Shed { marks, victims }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holders, low, share, step};

    #[test]
    fn without_a_word_of_the_system_it_is_1_gib() {
        assert_eq!((share(None), share(Some(4096))), (1 << 30, 1024));
    }

    #[test]
    fn at_the_limit_the_marks_lie_a_step_apart_and_the_lower_one_is_reached() {
        for max in [1, 64 * 1024, 1024 * 1024, 1024 * 1024 * 1024] {
            for stuck in [0, max] {
                // All bytes but those of connections that stay will be freed, or are stuck.
                let kept = low(max).saturating_sub(1);
                let in_use = max + stuck;
                let crowd = Holders { holders: Vec::new(), kept, leaving: in_use - kept };
                let marks = crowd.shed(max, in_use, stuck, false).marks;
                assert!(marks.sinks_below > kept + stuck, "{max} {stuck} {marks:?}");
                assert!(marks.rises_to - marks.sinks_below >= step(max), "{max} {stuck} {marks:?}");
                assert!(
                    max < 1024 * 1024 || in_use - marks.sinks_below >= step(max),
                    "{max} {stuck} {marks:?}"
                );
            }
        }
    }
}
