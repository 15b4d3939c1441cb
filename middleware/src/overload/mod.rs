//! Connections that are refused while the process has too much to do: [`OverloadLayer`].

mod lag;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

use self::lag::{LagMarks, Lags, WatchedRuntime};
use crate::connection::{BudgetRef, MemoryBudget};
use crate::limit::{MAX_REFUSALS, Overflow, Place, RefuseBy, RefuseWith, ResponseFuture};
use crate::{CloseReason, Connection};

/// Connections are refused from this part of the memory budget on, in percent.
const MEMORY_FROM: u8 = 80;
/// Below this part of the memory budget, in percent, they are served again.
const MEMORY_BELOW: u8 = 70;
/// Connections are refused from this lag on.
const LAG_FROM: Duration = Duration::from_millis(500);
/// Below this lag they are served again.
const LAG_BELOW: Duration = Duration::from_millis(100);

/// Refuses new connections while the process has too much to do, so that those that are open are
/// still served well.
///
/// * **Memory**: while the buffers of all connections take 80 % of the server's memory budget or
///   more, until they take less than 70 %. From 90 % on the server itself stops reading from the
///   largest, so this comes first. Connections without a budget, outside of a server, have no such
///   mark.
/// * **Lag**: while the runtime polls its tasks 500 ms late or more, until it was less than 100 ms
///   late for a second. A task of the layer looks every 100 ms, one in each runtime that has
///   connections.
///
/// Two marks each keep the layer from switching to and fro. A refused connection ends with
/// [`CloseReason::Overload`]. It is closed silently or with a [text](Self::refuse_with), or
/// [another service](Self::refuse_by) answers it; refusals under way are limited as in a
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer). [`refused`](Self::refused) counts them.
///
/// The layer and its clones share the state. The memory of each server is looked at by itself. A
/// connection costs two locks and a few loads; a frame costs nothing.
///
/// It goes around connections only, and its service is called on a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::OverloadLayer;
///
/// let overload = OverloadLayer::new()
///     .lag(Duration::from_millis(250), Duration::from_millis(50))
///     .refuse_with("421 overloaded, try later\r\n");
/// assert_eq!((overload.is_overloaded(), overload.refused()), (false, 0));
/// ```
#[derive(Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct OverloadLayer<P = RefuseWith> {
    shared: Arc<OverloadShared>,
    refusal: P,
}

#[derive(Debug)]
struct OverloadShared {
    memory: Option<MemoryMarks>,
    lags: Option<Arc<Lags>>,
    /// The budgets that were short at the last look: servers that share the layer have one each.
    short: Mutex<Vec<BudgetRef>>,
    /// How often memory became short.
    shortages: AtomicU64,
    refused: AtomicU64,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct MemoryMarks {
    from: u8,
    below: u8,
}

impl OverloadShared {
    fn new(memory: Option<MemoryMarks>, lag: Option<LagMarks>) -> Arc<Self> {
        let (short, shortages, refused) = Default::default();
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        Arc::new(Self { memory, lags: lag.map(Lags::new), short, shortages, refused, refusals })
    }

    fn lag_marks(&self) -> Option<LagMarks> {
        self.lags.as_ref().map(|lags| lags.marks)
    }

    fn short(&self) -> MutexGuard<'_, Vec<BudgetRef>> {
        // Each change is one insertion or removal.
        self.short.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether memory is short.
    fn is_short(&self, budget: Option<&MemoryBudget>) -> bool {
        let (Some(marks), Some(budget)) = (self.memory, budget) else { return false };
        let part = |percent: u8| budget.max() as u128 * u128::from(percent) / 100;
        let in_use = budget.in_use() as u128;
        let mut short = self.short();
        let was_short = short.iter().any(|known| known.is_of(budget));
        let is_short = in_use >= part(if was_short { marks.below } else { marks.from });
        if is_short && !was_short {
            short.push(budget.downgrade());
            self.shortages.fetch_add(1, Ordering::Relaxed);
        } else if was_short && !is_short {
            short.retain(|known| known.lives() && !known.is_of(budget));
        }
        is_short
    }
}

fn check_marks(in_order: bool, can_be_reached: bool) {
    assert!(in_order, "connections are served again below the mark from which they are refused");
    assert!(can_be_reached, "nothing is below 0, so connections would be refused for ever");
}

impl OverloadLayer {
    /// A layer with both marks of memory, and both of the lag.
    pub fn new() -> Self {
        let memory = MemoryMarks { from: MEMORY_FROM, below: MEMORY_BELOW };
        let lag = LagMarks { from: LAG_FROM, below: LAG_BELOW };
        Self {
            shared: OverloadShared::new(Some(memory), Some(lag)),
            refusal: RefuseWith(Bytes::new()),
        }
    }
}

impl Default for OverloadLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> OverloadLayer<P> {
    /// Refuses from `from` percent of the memory budget on, until less than `below` percent are in
    /// use. The layer has a new state, not shared with earlier clones.
    ///
    /// # Panics
    ///
    /// Panics if `below` is greater than `from`, or zero.
    pub fn memory(self, from: u8, below: u8) -> Self {
        check_marks(below <= from, below > 0);
        let memory = Some(MemoryMarks { from, below });
        Self { shared: OverloadShared::new(memory, self.shared.lag_marks()), refusal: self.refusal }
    }

    /// Takes no notice of memory. The layer has a new state, not shared with earlier clones.
    pub fn without_memory(self) -> Self {
        Self { shared: OverloadShared::new(None, self.shared.lag_marks()), refusal: self.refusal }
    }

    /// Refuses from this lag of the runtime on, until it was less than `below` for a second. The
    /// layer has a new state, not shared with earlier clones.
    ///
    /// # Panics
    ///
    /// Panics if `below` is greater than `from`, or zero.
    pub fn lag(self, from: Duration, below: Duration) -> Self {
        check_marks(below <= from, !below.is_zero());
        let lag = Some(LagMarks { from, below });
        Self { shared: OverloadShared::new(self.shared.memory, lag), refusal: self.refusal }
    }

    /// Takes no notice of the lag, and has no task. The layer has a new state, not shared with
    /// earlier clones.
    pub fn without_lag(self) -> Self {
        Self { shared: OverloadShared::new(self.shared.memory, None), refusal: self.refusal }
    }

    /// Refused connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> OverloadLayer<RefuseWith> {
        OverloadLayer { shared: self.shared, refusal: RefuseWith(text.into()) }
    }

    /// Refused connections are served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> OverloadLayer<RefuseBy<R>> {
        OverloadLayer { shared: self.shared, refusal: RefuseBy(service) }
    }

    /// Whether memory was short when the last connection came, or a runtime is late now.
    pub fn is_overloaded(&self) -> bool {
        self.shared.short().iter().any(BudgetRef::lives)
            || self.shared.lags.as_ref().is_some_and(|lags| lags.is_overloaded())
    }

    /// How late the latest runtime was at its last look; zero without connections.
    pub fn current_lag(&self) -> Duration {
        self.shared.lags.as_ref().map_or(Duration::ZERO, |lags| lags.lag())
    }

    /// How many connections were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// How often memory became short.
    pub fn shortages(&self) -> u64 {
        self.shared.shortages.load(Ordering::Relaxed)
    }

    /// How often a runtime became too late.
    pub fn stalls(&self) -> u64 {
        self.shared.lags.as_ref().map_or(0, |lags| lags.begun())
    }
}

impl<P: Clone> Clone for OverloadLayer<P> {
    /// Another handle on the same state.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), refusal: self.refusal.clone() }
    }
}

impl<S, P: Clone> Layer<S> for OverloadLayer<P> {
    type Service = Overload<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Overload { inner, layer: self.clone() }
    }
}

/// A service that refuses connections under overload; made by [`OverloadLayer`].
#[derive(Clone)]
pub struct Overload<S, P = RefuseWith> {
    inner: S,
    layer: OverloadLayer<P>,
}

impl<S, P> Overload<S, P> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, by value.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// An open connection: its runtime is watched.
#[derive(Debug)]
pub struct OverloadPlace {
    _watched: Option<Arc<WatchedRuntime>>,
}

impl Place for OverloadPlace {}

/// A connection that is served, or refused because the process is overloaded.
pub type OverloadFuture<F, R> = ResponseFuture<F, R, OverloadPlace>;

impl<S, P> Service<Connection> for Overload<S, P>
where
    S: Service<Connection, Response = ()>,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = OverloadFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let shared = &self.layer.shared;
        let watched = shared.lags.as_ref().map(Lags::watch);
        let is_late = watched.as_ref().is_some_and(|watched| watched.is_overloaded());
        if is_late || shared.is_short(connection.memory_budget()) {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            connection.closing().set_reason(CloseReason::Overload);
            return ResponseFuture::refuse(&mut self.layer.refusal, &shared.refusals, connection);
        }
        ResponseFuture::served(self.inner.call(connection), OverloadPlace { _watched: watched })
    }
}

impl<S: fmt::Debug, P> fmt::Debug for Overload<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overload")
            .field("inner", &self.inner)
            .field("overloaded", &self.layer.is_overloaded())
            .finish_non_exhaustive()
    }
}
