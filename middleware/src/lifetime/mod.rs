//! Limits on the age of connections, and on how many calls each of them makes: [`LifetimeLayer`].

pub(crate) mod ages;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::ages::{Age, Ages};
use crate::{CloseReason, Connection};

/// How long a connection past its age may take to end by itself.
const GRACE: Duration = Duration::from_secs(30);

const REASON: CloseReason = CloseReason::MaxAge;

/// Ends connections at a maximum age, so that clients reconnect: to a new version, or to another
/// server behind a load balancer.
///
/// At that age a connection is drained, as in a drain of the server: the requests that have arrived
/// are answered, then it is closed. A connection that has not ended after the [grace](Self::grace),
/// 30 s, is aborted. Either way the reason is [`CloseReason::MaxAge`]. [`jitter`](Self::jitter)
/// spreads the ages, so that clients that connected together don't reconnect together.
///
/// [`max_calls`](Self::max_calls) also ends a connection after a number of frames.
///
/// One task of the layer watches all ages: a connection costs a lock when it opens and one when it
/// ends, some 100 bytes, and no timer. A frame costs nothing. The layer and its clones share that
/// task, which ends with the last connection.
///
/// It goes around connections only, and its service is called on a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::LifetimeLayer;
///
/// // Between 50 and 60 minutes.
/// let lifetime = LifetimeLayer::new(Duration::from_secs(3000)).jitter(Duration::from_secs(600));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct LifetimeLayer {
    ages: Arc<Ages>,
    max_calls: Option<u64>,
}

impl LifetimeLayer {
    /// Drains each connection this long after it reached the layer.
    ///
    /// With [`Duration::MAX`] there is no maximum age.
    pub fn new(max_age: Duration) -> Self {
        Self { ages: Ages::new(max_age, Duration::ZERO, GRACE, REASON), max_calls: None }
    }

    /// Lets each connection live longer by a random part of this time. The layer has a new task of
    /// its own, not shared with earlier clones.
    pub fn jitter(self, jitter: Duration) -> Self {
        Self { ages: Ages::new(self.ages.max_age, jitter, self.ages.grace, REASON), ..self }
    }

    /// How long a connection may take to end once it is drained; then it is aborted. The layer has
    /// a new task of its own, not shared with earlier clones.
    pub fn grace(self, grace: Duration) -> Self {
        Self { ages: Ages::new(self.ages.max_age, self.ages.jitter, grace, REASON), ..self }
    }

    /// Ends each connection after this many frames of its peer, which are answered. Then it closes
    /// as in a drain, with the goodbye of the leaf, and with the reason [`CloseReason::MaxCalls`];
    /// frames that have arrived behind the last one are discarded. A session's `next` returns
    /// `None` instead of another frame. With 0 no frame is taken.
    ///
    /// Frames are counted by the leaf, so a plain service of connections has no such limit. This
    /// costs nothing: the leaf compares its count in any case.
    pub fn max_calls(self, calls: u64) -> Self {
        Self { max_calls: Some(calls), ..self }
    }
}

impl<S> Layer<S> for LifetimeLayer {
    type Service = Lifetime<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Lifetime { inner, layer: self.clone() }
    }
}

/// A service whose connections end at a maximum age, or after a number of calls; made by
/// [`LifetimeLayer`].
#[derive(Clone)]
pub struct Lifetime<S> {
    inner: S,
    layer: LifetimeLayer,
}

impl<S> Lifetime<S> {
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

impl<S: Service<Connection>> Service<Connection> for Lifetime<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = LifetimeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        if let Some(max) = self.layer.max_calls {
            connection.closing().limit_frames(max);
        }
        let age = Ages::enter(&self.layer.ages, connection.closing());
        LifetimeFuture { future: self.inner.call(connection), age: Some(age) }
    }
}

impl<S: fmt::Debug> fmt::Debug for Lifetime<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifetime")
            .field("inner", &self.inner)
            .field("ages", &self.layer.ages)
            .finish()
    }
}

/// A connection that ends at a maximum age.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct LifetimeFuture<F> {
    #[pin]
    future: F,
    age: Option<Age>,
}

impl<F: Future> Future for LifetimeFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        // Here, because a finished future may be dropped much later.
        *this.age = None;
        Poll::Ready(output)
    }
}
