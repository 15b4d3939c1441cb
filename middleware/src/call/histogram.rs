//! How long calls take.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets in each power of two: 8, so that a duration is known to one eighth.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: usize = 3;
/// Durations of 2^42 ns (73 minutes) or more are in the last bucket.
const LONGEST: usize = 42;
const BUCKETS: usize = (LONGEST - STEP_BITS + 1) * STEPS;

/// A histogram of durations. It is cheap to clone, and all clones share the counts.
///
/// The buckets are an eighth of a power of two wide, from a nanosecond to over an hour: a reported
/// duration is at most 12.5 % too long. It takes 2.5 KiB. Calls go on while it is read, so two
/// figures read one after the other may be a few calls apart.
///
/// [`CallLatencyLayer`](super::CallLatencyLayer) fills it. [`buckets`](Self::buckets) has the data
/// for a metrics system.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::Histogram;
///
/// let histogram = Histogram::new();
/// histogram.record(Duration::from_micros(100), 99);
/// histogram.record(Duration::from_millis(100), 1);
/// assert_eq!(histogram.count(), 100);
/// assert!(histogram.quantile(0.5) < Duration::from_micros(113));
/// assert!(histogram.quantile(1.0) >= Duration::from_millis(100));
/// ```
#[derive(Clone)]
pub struct Histogram(Arc<[AtomicU64; BUCKETS]>);

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self(Arc::new([const { AtomicU64::new(0) }; BUCKETS]))
    }

    /// Counts a duration `times` times.
    pub fn record(&self, duration: Duration, times: u64) {
        if let Some(bucket) = self.0.get(bucket_of(duration)) {
            bucket.fetch_add(times, Relaxed);
        }
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// The buckets that are not empty, from short to long: the exclusive upper end of each, and how
    /// many durations are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counts = self.0.iter().map(|bucket| bucket.load(Relaxed));
        (1..).map(start_of).zip(counts).filter(|(_, count)| *count > 0)
    }

    /// The duration below which a fraction `q` of all durations lies, with `q` from 0 to 1: 0.5
    /// gives the median. Zero if there are no durations.
    pub fn quantile(&self, q: f64) -> Duration {
        let counts: Vec<_> = self.buckets().collect();
        let all: u64 = counts.iter().map(|(_, count)| count).sum();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        // The rank may be off by one beyond 2^52 calls, which does no harm; it is never negative.
        let rank = (q.clamp(0.0, 1.0) * all as f64).ceil() as u64;
        let mut seen = 0;
        let found = counts.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(Duration::ZERO, |(below, _)| *below)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

/// The first 8 buckets are a nanosecond wide; each further 8 buckets together are as wide as all
/// before them.
fn bucket_of(duration: Duration) -> usize {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let Some(power) =
        nanos.checked_ilog2().map(|power| power as usize).filter(|power| *power >= STEP_BITS)
    else {
        return usize::try_from(nanos).unwrap_or(0);
    };
    let step = usize::try_from(nanos >> (power - STEP_BITS)).unwrap_or(0);
    ((power - STEP_BITS) * STEPS + step).min(BUCKETS - 1)
}

/// The shortest duration in a bucket.
fn start_of(bucket: usize) -> Duration {
    if bucket < STEPS {
        return Duration::from_nanos(bucket as u64);
    }
    let power = bucket / STEPS - 1;
    let step = bucket % STEPS + STEPS;
    Duration::from_nanos((step as u64) << power)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUCKETS, bucket_of, start_of};

    #[test]
    fn every_duration_is_in_the_bucket_that_spans_it() {
        let mut nanos = 0_u64;
        while nanos < 1 << 42 {
            let bucket = bucket_of(Duration::from_nanos(nanos));
            let start = start_of(bucket);
            let end = start_of(bucket + 1);
            let duration = Duration::from_nanos(nanos);
            assert!(start <= duration && duration < end, "{nanos} is not in {start:?}..{end:?}");
            assert!(
                end - start <= (start / 8).max(Duration::from_nanos(1)),
                "{start:?}..{end:?} is too wide"
            );
            nanos += 1 + nanos / 100;
        }
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(start_of(bucket)), bucket);
        }
    }

    #[test]
    fn a_duration_beyond_the_range_is_in_the_last_bucket() {
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }
}
