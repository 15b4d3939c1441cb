//! Threads of a runtime that stand still, because a handler blocks them or computes without a
//! pause.

use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

/// How often the threads are checked.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// After this many checks without activity a thread counts as stalled: between 0.75 s and 1 s.
const LOOKS: u32 = 3;

/// The state of each thread at the last check. It counts checks and not time, so that a process or
/// machine that was suspended meanwhile doesn't count as stalled.
#[derive(Debug, Default)]
pub(super) struct Stalls(Vec<Seen>);

#[derive(Debug, Default)]
struct Seen {
    life: Life,
    looks: u32,
}

/// A value that changes as long as a thread polls its runtime's driver, which it does when it is
/// idle and after some dozens of tasks: how often it was parked and unparked, and how long it was
/// busy.
type Life = (u64, Duration);

impl Stalls {
    /// Checks the threads of these runtimes, which must be in the same order each time. Returns how
    /// many have stalled since the last check.
    pub(in crate::server) fn look(&mut self, runtimes: &[RuntimeMetrics]) -> usize {
        self.note(
            runtimes
                .iter()
                .flat_map(|runtime| (0..runtime.num_workers()).map(move |n| life(runtime, n))),
        )
    }

    fn note(&mut self, lives: impl Iterator<Item = Life>) -> usize {
        let mut new = 0;
        for (n, life) in lives.enumerate() {
            if n == self.0.len() {
                self.0.push(Seen::default());
            }
            let seen = &mut self.0[n];
            // If the sum of parkings and unparkings is odd, the thread is parked: it is idle.
            if seen.life != life || life.0 % 2 == 1 {
                *seen = Seen { life, looks: 0 };
                continue;
            }
            seen.looks = seen.looks.saturating_add(1);
            new += usize::from(seen.looks == LOOKS);
        }
        new
    }
}

#[cfg(target_has_atomic = "64")]
fn life(runtime: &RuntimeMetrics, worker: usize) -> Life {
    (runtime.worker_park_unpark_count(worker), runtime.worker_total_busy_duration(worker))
}

/// Without these metrics all threads count as idle.
#[cfg(not(target_has_atomic = "64"))]
fn life(_: &RuntimeMetrics, _: usize) -> Life {
    (1, Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Stalls;

    #[test]
    fn a_thread_that_is_busy_and_shows_no_life_three_times_in_a_row_has_stalled_once() {
        let mut stalls = Stalls::default();
        let busy = |ms| (4, Duration::from_millis(ms));
        assert_eq!(
            [(); 9].map(|()| stalls.note([busy(0), (5, Duration::ZERO)].into_iter())),
            [0, 0, 0, 1, 0, 0, 0, 0, 0]
        );
        // It goes on, and stalls again.
        assert_eq!([1, 2, 3, 4, 5, 6].map(|ms| stalls.note([busy(ms)].into_iter())), [0; 6]);
        assert_eq!([(); 4].map(|()| stalls.note([busy(6)].into_iter())), [0, 0, 1, 0]);
    }
}
