//! Connections whose peers have not logged in yet: [`LoginLayer`].

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

use crate::lifetime::ages::{Age, Ages};
use crate::limit::{MAX_REFUSALS, Overflow, Place, RefuseBy, RefuseWith, ResponseFuture};
use crate::{CloseReason, Connection, ConnectionInfo};

/// How long a peer may take to log in.
const WITHIN: Duration = Duration::from_secs(120);

/// How many connections may be open whose peers have not logged in.
const AT_MOST: usize = 100;

/// How long a connection that missed the deadline may take to end after its drain.
const GRACE: Duration = Duration::from_secs(5);

/// Limits how long a peer may take to log in, 120 s, and how many peers that have not logged in may
/// be connected, 100.
///
/// The service reports a login by [`complete`]; from then on the connection no longer counts here.
/// A connection that misses the deadline is drained with [`CloseReason::LoginTimeout`], so that a
/// service can send a last answer, and aborted 5 s later. A connection above the limit is refused,
/// with [`CloseReason::LoginLimit`]: it is closed silently or with a [text](Self::refuse_with), or
/// [another service](Self::refuse_by) answers it; refusals under way are limited as in a
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
///
/// The limit alone lets silent peers of one address keep others out: a
/// [`PeerLimitLayer`](crate::PeerLimitLayer) before it limits the connections of one address. The
/// layer and its clones share the limit and one task for the deadlines. A connection costs a lock
/// and a small allocation when it opens, and a lock when its peer logs in; a frame costs nothing.
///
/// It goes around connections only, and its service is called on a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::{ConnectionInfo, LoginLayer, login};
///
/// let login = LoginLayer::new()
///     .within(Duration::from_secs(30))
///     .at_most(20)
///     .refuse_with("421 Too many connections, try later\r\n");
///
/// /// Called by the service with the connection's info.
/// fn check(connection: &ConnectionInfo, password: &str) -> bool {
///     let is_right = password == "sesame";
///     if is_right {
///         login::complete(connection);
///     }
///     is_right
/// }
/// ```
#[derive(Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct LoginLayer<P = RefuseWith> {
    shared: Arc<LoginState>,
    refusal: P,
}

#[derive(Debug)]
struct LoginState {
    ages: Arc<Ages>,
    at_most: usize,
    waiting: AtomicUsize,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

impl LoginState {
    fn new(within: Duration, at_most: usize) -> Arc<Self> {
        let ages = Ages::new(within, Duration::ZERO, GRACE, CloseReason::LoginTimeout);
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        Arc::new(Self { ages, at_most, waiting: AtomicUsize::new(0), refusals })
    }

    /// Counts one more, if the limit allows it.
    fn enter(&self) -> bool {
        let one_more = |waiting| (waiting < self.at_most).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }
}

impl LoginLayer {
    /// A layer with 120 s for a login, and a limit of 100 connections.
    pub fn new() -> Self {
        Self { shared: LoginState::new(WITHIN, AT_MOST), refusal: RefuseWith(Bytes::new()) }
    }
}

impl Default for LoginLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> LoginLayer<P> {
    /// How long a peer may take to log in. The layer starts a new count, not shared with earlier
    /// clones.
    pub fn within(self, time: Duration) -> Self {
        Self { shared: LoginState::new(time, self.shared.at_most), refusal: self.refusal }
    }

    /// How many connections may be open whose peers have not logged in. The layer starts a new
    /// count, not shared with earlier clones.
    pub fn at_most(self, connections: usize) -> Self {
        Self {
            shared: LoginState::new(self.shared.ages.max_age, connections),
            refusal: self.refusal,
        }
    }

    /// Refused connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> LoginLayer<RefuseWith> {
        LoginLayer { shared: self.shared, refusal: RefuseWith(text.into()) }
    }

    /// Refused connections are served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> LoginLayer<RefuseBy<R>> {
        LoginLayer { shared: self.shared, refusal: RefuseBy(service) }
    }

    /// How many connections are open whose peers have not logged in.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Acquire)
    }
}

impl<P: Clone> Clone for LoginLayer<P> {
    /// Another handle on the same limit.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), refusal: self.refusal.clone() }
    }
}

impl<S, P: Clone> Layer<S> for LoginLayer<P> {
    type Service = Login<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Login { inner, layer: self.clone() }
    }
}

/// Reports that the peer of this connection has logged in. Without a [`LoginLayer`] around the
/// connection, and after the first call, this does nothing.
pub fn complete(connection: &ConnectionInfo) {
    let mut next = connection.get::<Pending>();
    while let Some(pending) = next {
        pending.end();
        next = pending.outer.clone();
    }
}

/// Whether the peer of this connection has logged in, so that [`complete`] was called. True without
/// a [`LoginLayer`] around the connection.
pub fn is_complete(connection: &ConnectionInfo) -> bool {
    // A login ends those of outer layers as well.
    connection.get::<Pending>().is_none_or(|pending| pending.lock().is_none())
}

/// The login of one connection, among the values of its [`ConnectionInfo`].
struct Pending {
    state: Mutex<Option<LoggingIn>>,
    /// That of another layer around this one.
    outer: Option<Arc<Self>>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Option<LoggingIn>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        // Dropped after the lock is released.
        let waiting = self.lock().take();
        drop(waiting);
    }
}

/// A connection that counts as not logged in until this is dropped.
struct LoggingIn {
    shared: Arc<LoginState>,
    _age: Age,
}

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Held by the connection's future: after that ends the connection no longer counts, even if
/// handles on it still exist.
pub struct LoginPlace(Option<Arc<Pending>>);

impl Place for LoginPlace {}

impl Drop for LoginPlace {
    fn drop(&mut self) {
        if let Some(pending) = &self.0 {
            pending.end();
        }
    }
}

impl fmt::Debug for LoginPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginPlace").finish_non_exhaustive()
    }
}

/// A service whose peers have to log in; made by [`LoginLayer`].
#[derive(Clone)]
pub struct Login<S, P = RefuseWith> {
    inner: S,
    layer: LoginLayer<P>,
}

impl<S, P> Login<S, P> {
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

/// A connection that is served, or refused because too many other peers have not logged in.
pub type LoginFuture<F, R> = ResponseFuture<F, R, LoginPlace>;

impl<S, P> Service<Connection> for Login<S, P>
where
    S: Service<Connection, Response = ()>,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = LoginFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let shared = &self.layer.shared;
        if !shared.enter() {
            connection.closing().set_reason(CloseReason::LoginLimit);
            return ResponseFuture::refuse(&mut self.layer.refusal, &shared.refusals, connection);
        }
        let age = Ages::enter(&shared.ages, connection.closing());
        let waiting = LoggingIn { shared: Arc::clone(shared), _age: age };
        let info = connection.info();
        let outer = info.get::<Pending>();
        info.insert(Pending { state: Mutex::new(Some(waiting)), outer });
        let held = LoginPlace(info.get());
        ResponseFuture::served(self.inner.call(connection), held)
    }
}

impl<S: fmt::Debug, P> fmt::Debug for Login<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("inner", &self.inner).finish_non_exhaustive()
    }
}
