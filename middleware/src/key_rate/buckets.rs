//! Buckets of tokens that many connections share.

use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::MAX_KEYS;
use crate::bounded::{Bounded, Need};
use crate::rate::TokenRate;

/// Beyond the range of the clock: longer than any process lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The tokens of one key.
#[derive(Debug)]
pub(super) struct KeyBucket {
    /// Negative while tokens are taken that have not arrived yet.
    tokens: AtomicI64,
    /// The tokens that arrived until then are in `tokens`.
    filled: Mutex<Instant>,
}

impl KeyBucket {
    fn full(rate: TokenRate) -> Arc<Self> {
        Arc::new(Self { tokens: AtomicI64::new(rate.burst), filled: Mutex::new(Instant::now()) })
    }

    /// Takes a token. `None` if it was there, otherwise the time at which it will be.
    #[inline]
    pub(super) fn take(&self, rate: TokenRate) -> Option<Instant> {
        if self.tokens.fetch_sub(1, Ordering::Relaxed) > 0 { None } else { self.fill(rate) }
    }

    /// Takes so many tokens, if they are counted as there, without a look at the clock.
    pub(super) fn try_take(&self, tokens: i64) -> bool {
        // Not taken and put back: meanwhile another connection would see a bucket that lacks so
        // many, and wait for them.
        let rest = |there: i64| (there >= tokens).then(|| there - tokens);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    /// Returns a token that was taken and not used. A bucket that has become full meanwhile holds no
    /// more.
    pub(super) fn put_back(&self, rate: TokenRate) {
        let more = |there: i64| (there < rate.burst).then(|| there + 1);
        // A full bucket stays as it is.
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Adds the tokens that have arrived. `None` if all tokens that were taken are there, otherwise
    /// the time at which they will be.
    #[cold]
    fn fill(&self, rate: TokenRate) -> Option<Instant> {
        let now = Instant::now();
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        let came = rate.tokens_in(now.saturating_duration_since(*filled));
        let with_them = |tokens: i64| tokens.saturating_add(came).min(rate.burst);
        // It can't fail: the function always returns a value.
        let before = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(with_them(tokens)));
        let tokens = with_them(before.unwrap_or_default());
        // The fraction of a token that has arrived too stays counted, unless the bucket is full.
        *filled = if tokens == rate.burst { now } else { (*filled + rate.time_of(came)).min(now) };
        if tokens >= 0 {
            return None;
        }
        let at = filled.checked_add(rate.time_of(tokens)).unwrap_or_else(|| now + FOREVER);
        Some(at)
    }

    /// Whether all its tokens have arrived, so that a new bucket would be the same.
    fn is_full(&self, rate: TokenRate) -> bool {
        self.fill(rate).is_none() && self.tokens.load(Ordering::Relaxed) == rate.burst
    }
}

/// The buckets of one layer.
#[derive(Debug)]
pub(super) struct KeyBuckets<K> {
    pub(super) rate: TokenRate,
    keys: Mutex<Keys<K>>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Keys<K> {
    buckets: Bounded<K, Arc<KeyBucket>>,
    /// The bucket of all keys for which the table has no room, because connections hold all those
    /// in it.
    others: Option<Arc<KeyBucket>>,
}

impl<K: Eq + Hash> KeyBuckets<K> {
    pub(super) fn new(rate: TokenRate) -> Arc<Self> {
        let keys = Keys { buckets: Bounded::new(MAX_KEYS), others: None };
        Arc::new(Self { rate, keys: Mutex::new(keys), refused: AtomicU64::new(0) })
    }

    /// The same rate with another burst, and with no key known.
    pub(super) fn with_burst(&self, burst: u32) -> Arc<Self> {
        let mut rate = self.rate;
        rate.burst = burst.into();
        Self::new(rate)
    }

    /// The bucket of a key.
    pub(super) fn of(&self, key: K) -> Arc<KeyBucket> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = keys.buckets.get(&key) {
            return Arc::clone(bucket);
        }
        let bucket = KeyBucket::full(self.rate);
        let need = |known: &Arc<KeyBucket>| match Arc::strong_count(known) {
            1 if known.is_full(self.rate) => Need::Over,
            1 => Need::Spare,
            // A connection holds it, and its key would get another one.
            _ => Need::Needed,
        };
        if keys.buckets.insert(key, Arc::clone(&bucket), Instant::now(), need) {
            return bucket;
        }
        Arc::clone(keys.others.get_or_insert(bucket))
    }

    pub(super) fn len(&self) -> usize {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).buckets.len()
    }

    pub(super) fn untracked(&self) -> u64 {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).buckets.untracked()
    }

    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::KeyBucket;
    use crate::rate::TokenRate;

    #[test]
    fn an_answer_that_is_too_large_for_the_bucket_takes_no_token_from_others_for_a_moment() {
        let mut rate = TokenRate::new(1, Duration::from_secs(3600));
        rate.burst = 3_000_000;
        let bucket = KeyBucket::full(rate);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(!bucket.try_take(10_000_000));
                }
            });
            let has_waited = (0..2_000_000).any(|_| bucket.take(rate).is_some());
            is_over.store(true, Ordering::Relaxed);
            assert!(!has_waited, "there was a token for each");
        });
    }
}
