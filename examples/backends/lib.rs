//! Layers of others around a service of frames that asks a backend. The chapter "Backends that fail" of the book shows them.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::BoxError;
use tower::buffer::Buffer;
use tower::hedge::{self, Hedge};
use tower::load_shed::LoadShed;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{self, Retry};
use tower::{Layer, Service, ServiceExt};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

/// Asks a backend: a request is a frame, and so is its answer.
pub trait Backend:
    Service<Bytes, Response = Bytes, Error = BoxError, Future: Send + 'static> + Clone + Send + 'static
{
}

impl<S> Backend for S where
    S: Service<Bytes, Response = Bytes, Error = BoxError, Future: Send + 'static> + Clone + Send + 'static
{
}

/// Fails calls at once when half of the last twenty have failed; after this
/// time it lets three through, to look again.
///
/// # Panics
///
/// Panics if the numbers don't fit one another.
pub fn breaker(backend: impl Backend, wait: Duration) -> impl Backend {
    let layer = CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(20)
        .wait_duration_in_open(wait)
        .permitted_calls_in_half_open(3)
        .build()
        .expect("numbers that fit one another");
    layer.layer(backend).map_err(BoxError::from)
}

/// Asks again when a call fails: twice at most, and for all connections
/// together one call in five, and ten a second besides.
pub fn retried(backend: impl Backend) -> impl Backend {
    let budget = TpsBudget::new(Duration::from_secs(10), 10, 0.2);
    Retry::new(Again { budget: Arc::new(budget), left: 2 }, backend)
}

/// Which calls are made again.
#[derive(Clone, Debug)]
struct Again {
    /// Shared by all connections.
    budget: Arc<TpsBudget>,
    /// Of this call; each call has a clone of the policy.
    left: usize,
}

impl retry::Policy<Bytes, Bytes, BoxError> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Bytes, answer: &mut Result<Bytes, BoxError>) -> Option<Ready<()>> {
        if answer.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, frame: &Bytes) -> Option<Bytes> {
        is_safe_twice(frame).then(|| frame.clone())
    }
}

/// Whether a request may be made twice: it only reads.
fn is_safe_twice(frame: &Bytes) -> bool {
    frame.starts_with(b"get ")
}

/// Asks a second time when an answer takes longer than nine in ten did in the
/// ten seconds before, and takes the first answer.
pub fn hedged(backend: impl Backend) -> impl Backend {
    let window = Duration::from_secs(10);
    // A hedge can't be cloned for each connection; a buffer can.
    Buffer::new(Hedge::new(backend, Twice, 20, 0.9, window), 64)
}

/// Which calls are made a second time.
#[derive(Clone, Copy, Debug)]
struct Twice;

impl hedge::Policy<Bytes> for Twice {
    fn clone_request(&self, frame: &Bytes) -> Option<Bytes> {
        is_safe_twice(frame).then(|| frame.clone())
    }

    fn can_retry(&self, _: &Bytes) -> bool {
        true
    }
}

/// Shares one backend, which need not be cloned for each connection: up to 64
/// calls wait for it, and more fail.
pub fn queued<S>(backend: S) -> impl Backend
where
    S: Service<Bytes, Response = Bytes, Error = BoxError> + Send + 'static,
    S::Future: Send,
{
    LoadShed::new(Buffer::new(backend, 64))
}
