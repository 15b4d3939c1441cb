use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::places::{Place, Places, Ticket};
use super::refuse::CallRefuseLayer;
use crate::Frame;

/// Caps how many calls are under way at once, those of all connections together.
///
/// The layer is what is shared: a layer value and its clones count together, and so do all services made from them, the
/// clone for each connection among them. Over the cap the service is not ready, and the connection that has waited
/// longest is next; with [`refuse`](Self::refuse), the call fails instead. A place is given back when the call is done
/// or dropped. An idle connection holds no place.
///
/// Not so under tower's `load_shed`: a call that it turns away stands in the queue all the same, and is given a place
/// it does not use before its next frame, as under tower's `ConcurrencyLimit`.
///
/// It is what tower's `ConcurrencyLimit` is, without the semaphore: a call that finds room costs two counters. How many
/// calls of *one* connection run at once is for `concurrent` on the leaf.
///
/// It goes around frames only; [`ConnectionLimitLayer`](crate::ConnectionLimitLayer) caps connections.
///
/// ```
/// use bytes::Bytes;
/// use ropewalk_middleware::CallLimitLayer;
/// use tower::{ServiceBuilder, service_fn};
///
/// let limit = CallLimitLayer::new(32);
/// let echo = ServiceBuilder::new()
///     .layer(limit.clone())
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// assert_eq!((limit.active(), limit.max()), (0, 32));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct CallLimitLayer {
    places: Arc<Places>,
}

impl CallLimitLayer {
    /// At most `max` calls at once; the others wait. With 0 no call is made.
    pub fn new(max: usize) -> Self {
        Self { places: Places::new(max) }
    }

    /// The same cap for calls that do not wait: over it they fail with [`CallRefused`](super::CallRefused).
    pub fn refuse(self) -> CallRefuseLayer {
        CallRefuseLayer::new(self.places)
    }

    /// How many calls are under way at this moment, or about to be made.
    pub fn active(&self) -> usize {
        self.places.taken()
    }

    /// The cap.
    pub fn max(&self) -> usize {
        self.places.max
    }
}

impl<S> Layer<S> for CallLimitLayer {
    type Service = CallLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallLimit { inner, places: Arc::clone(&self.places), place: None, ticket: None }
    }
}

/// A service behind a cap on its calls; made by [`CallLimitLayer`].
pub struct CallLimit<S> {
    inner: S,
    places: Arc<Places>,
    /// For the next call: taken by `poll_ready`.
    place: Option<Place>,
    ticket: Option<Ticket>,
}

impl<S> CallLimit<S> {
    /// The service behind the cap.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the cap, without it.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone> Clone for CallLimit<S> {
    /// Another service under the same cap. It has no place yet: readiness is not cloned.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), places: Arc::clone(&self.places), place: None, ticket: None }
    }
}

impl<S, F> Service<F> for CallLimit<S>
where
    S: Service<F>,
    F: Frame,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallLimitFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.place.is_none() {
            self.place = Some(ready!(self.places.poll_take(&mut self.ticket, cx)));
        }
        let ready = self.inner.poll_ready(cx);
        if ready.is_pending() {
            // Others can use it meanwhile: what is behind may wait for long, a rate for its peer's next token.
            self.place = None;
        }
        ready
    }

    /// Called without having been ready it makes the call all the same, which counts.
    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        let place = self.place.take().unwrap_or_else(|| self.places.take_anyway());
        CallLimitFuture { future: self.inner.call(frame), place: Some(place) }
    }
}

impl<S: fmt::Debug> fmt::Debug for CallLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallLimit")
            .field("inner", &self.inner)
            .field("max", &self.places.max)
            .field("active", &self.places.taken())
            .finish_non_exhaustive()
    }
}

/// A call that has its place.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallLimitFuture<F> {
    #[pin]
    future: F,
    place: Option<Place>,
}

impl<F: Future> Future for CallLimitFuture<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        // Here, and not when somebody gets round to dropping a future that is done.
        *this.place = None;
        Poll::Ready(output)
    }
}
