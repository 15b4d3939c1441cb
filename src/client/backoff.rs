//! How long a client waits before it tries to connect again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The default bounds of the wait.
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(30);

/// How long a client waits between two attempts to connect. The time is chosen at random between a
/// minimum and a bound that doubles with each failure up to a maximum ("full jitter"), so that the
/// clients of a server that was unreachable do not all return at once. That begins with the first
/// wait: a server that ends has lost all its clients in one moment.
///
/// Only one attempt is under way at a time, however many callers wait. The bound is reset only
/// after a connection has lasted 10 s, so that a server that accepts and closes is not flooded with
/// attempts.
///
/// ```
/// use std::time::Duration;
/// use ropewalk::client::{Backoff, Client};
///
/// let backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(30));
/// # let _ =
/// Client::new().connect("tcp:cache.example.org:7000").backoff(backoff);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    least: Duration,
    most: Duration,
}

impl Backoff {
    /// Waits at least the first time and at most the second. The bound of the first wait is twice
    /// the first time, that of the second wait is four times that time, and so on.
    pub fn between(least: Duration, most: Duration) -> Self {
        // Without a minimum it would be a busy loop.
        let least = least.max(Duration::from_millis(1));
        Self { least, most: most.max(least) }
    }

    /// The wait after this many failures in a row, at least one. `random` is in 0..=1.
    pub(super) fn wait(self, failures: u32, random: f64) -> Duration {
        let bound = self.least.saturating_mul(1 << failures.min(20)).min(self.most);
        // Scaled, not clamped: a random time below the minimum would be raised to it, and many
        // clients would return at the same moment.
        self.least.saturating_add((bound - self.least).mul_f64(random))
    }
}

impl Default for Backoff {
    /// Between 100 ms and 30 s.
    fn default() -> Self {
        Self::between(LEAST, MOST)
    }
}

/// A number in 0..=1 that is random enough for a jitter. It comes from the seeds that the standard
/// library makes for hash maps.
pub(super) fn random() -> f64 {
    #[allow(clippy::cast_precision_loss)] // the number has 53 bits, which fit
    let bits = |n: u64| (n >> 11) as f64;
    bits(RandomState::new().build_hasher().finish()) / bits(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_and_the_wait_is_below_it_and_above_the_floor() {
        let backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(10));
        for (failures, most) in
            [(1, 200), (2, 400), (3, 800), (6, 6400), (7, 10_000), (1000, 10_000)]
        {
            assert_eq!(backoff.wait(failures, 1.0), Duration::from_millis(most));
            assert_eq!(backoff.wait(failures, 0.0), Duration::from_millis(100));
        }
        assert_eq!(backoff.wait(3, 0.5), Duration::from_millis(450));
        assert_eq!(
            Backoff::between(Duration::ZERO, Duration::ZERO).wait(9, 1.0),
            Duration::from_millis(1)
        );
    }

    #[test]
    fn random_numbers_differ_and_are_between_0_and_1() {
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..=1.0).contains(n)));
        assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n > 0.5));
    }
}
