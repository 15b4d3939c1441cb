//! The bytes that may pass in a time, of one connection or of all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much of the time that nothing passed may be made up for. It bounds a burst, and is longer than a timer is late.
const CREDIT: Duration = Duration::from_millis(50);

/// The smallest piece worth a system call, where the rate is not so low that it would take too long.
const SMALL_PIECE: u64 = 512;

/// Bytes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate(u64);

impl Rate {
    pub(super) fn new(bytes: u64) -> Self {
        assert!(bytes > 0, "a rate of no bytes lets nothing pass");
        Self(bytes)
    }

    /// How many bytes pass at once at most: those of a millisecond, so that many connections have their turn soon.
    pub(super) fn piece(self) -> usize {
        let piece = (self.0 / 1000).max(SMALL_PIECE.min(self.0 / 20)).max(1);
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    fn time_of(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// How far ahead the time at a rate is taken.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// When all bytes that were taken so far have passed at the rate.
    taken_until: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, taken_until: Instant::now() }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// From when on more bytes may pass.
    pub(super) fn free_from(&self) -> Instant {
        self.taken_until
    }

    /// Takes the time of so many bytes, and says when it begins.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> Instant {
        let start = self.taken_until.max(now.checked_sub(CREDIT).unwrap_or(now));
        self.taken_until = start + self.rate.time_of(bytes);
        start
    }

    /// Gives back the time of bytes that did not pass.
    fn give_back(&mut self, bytes: usize) {
        self.taken_until = self.taken_until.checked_sub(self.rate.time_of(bytes)).unwrap_or(self.taken_until);
    }
}

/// A bucket of several connections.
#[derive(Debug)]
pub(super) struct Shared {
    rate: Rate,
    /// Made at the first use: a layer may be made before the runtime, whose clock counts.
    bucket: Mutex<Option<Bucket>>,
}

impl Shared {
    pub(super) fn new(rate: Rate) -> Arc<Self> {
        Arc::new(Self { rate, bucket: Mutex::new(None) })
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// As [`Bucket::take`].
    pub(super) fn take(&self, bytes: usize, now: Instant) -> Instant {
        self.lock().get_or_insert_with(|| Bucket::new(self.rate)).take(bytes, now)
    }

    /// As [`Bucket::give_back`].
    pub(super) fn give_back(&self, bytes: usize) {
        if let Some(bucket) = self.lock().as_mut() {
            bucket.give_back(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bucket>> {
        // A panic in there leaves nothing half done.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
