//! The rate in bytes of one connection, or of all together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much unused time may be made up for. It bounds a burst, and is longer than the delay of a
/// timer.
const CREDIT: Duration = Duration::from_millis(50);

/// The smallest piece that is worth a system call. With a rate so low that it takes over 50 ms,
/// pieces are smaller.
const SMALL_PIECE: u64 = 512;

/// Bytes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteRate(u64);

impl ByteRate {
    pub(super) fn new(bytes: u64) -> Self {
        assert!(bytes > 0, "a rate of no bytes lets nothing pass");
        Self(bytes)
    }

    /// The most bytes that pass at once: those of a millisecond, so that many connections get their
    /// turns soon.
    pub(super) fn piece(self) -> usize {
        let piece = (self.0 / 1000).max(SMALL_PIECE.min(self.0 / 20)).max(1);
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    fn time_of(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Books time at a rate: each byte takes a part of it.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: ByteRate,
    /// When all bytes booked so far will have passed at the rate.
    taken_until: Instant,
}

impl Bucket {
    pub(super) fn new(rate: ByteRate) -> Self {
        Self { rate, taken_until: Instant::now() }
    }

    pub(super) fn rate(&self) -> ByteRate {
        self.rate
    }

    /// When more bytes may pass.
    pub(super) fn free_from(&self) -> Instant {
        self.taken_until
    }

    /// Books the time of these bytes, and returns when it begins.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> Instant {
        let start = self.taken_until.max(now.checked_sub(CREDIT).unwrap_or(now));
        self.taken_until = start + self.rate.time_of(bytes);
        start
    }

    /// Returns the time of bytes that did not pass.
    fn give_back(&mut self, bytes: usize) {
        self.taken_until =
            self.taken_until.checked_sub(self.rate.time_of(bytes)).unwrap_or(self.taken_until);
    }
}

/// A bucket that several connections share.
#[derive(Debug)]
pub(super) struct SharedBucket {
    rate: ByteRate,
    /// Made at the first use, because a layer may be made before the runtime whose clock it uses.
    bucket: Mutex<Option<Bucket>>,
}

impl SharedBucket {
    pub(super) fn new(rate: ByteRate) -> Arc<Self> {
        Arc::new(Self { rate, bucket: Mutex::new(None) })
    }

    pub(super) fn rate(&self) -> ByteRate {
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
        // The bucket is consistent even after a panic.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
