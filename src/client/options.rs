//! The limits and deadlines of a client.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{Backoff, random};
use crate::wire::after;

/// The least maximum age: with a shorter one a client would do little but connect.
pub(super) const LEAST_AGE: Duration = Duration::from_secs(1);

/// The limits and deadlines of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientOptions {
    pub(super) connect_within: Duration,
    pub(super) backoff: Backoff,
    pub(super) in_flight: usize,
    pub(super) call_within: Duration,
    pub(super) stalled_after: Duration,
    pub(super) fail_fast_after: Option<Duration>,
    pub(super) max_age: Option<Duration>,
}

impl ClientOptions {
    /// When a connection made now will be replaced: up to a tenth earlier than the maximum age, so
    /// that connections that began together do not end together.
    pub(super) fn expires(&self, now: Instant) -> Option<Instant> {
        self.max_age.map(|age| after(now, age.mul_f64(1.0 - random() / 10.0)))
    }
}
