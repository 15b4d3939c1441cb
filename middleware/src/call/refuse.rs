use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::places::{Place, Places, Ticket};
use crate::{BoxError, Frame};

/// Caps how many calls are under way at once, and fails those over the cap with [`CallRefused`]; made by
/// [`CallLimitLayer::refuse`](super::CallLimitLayer::refuse).
///
/// Under `framed` an error ends the connection, unless `on_error` makes an answer of it. The error is boxed; one of the
/// service behind goes through as it is.
///
/// A call that is refused takes nothing of the service behind: that one is not even asked whether it is ready. A call that
/// found room, and then has to wait until the service behind is ready, takes no slot meanwhile and is not refused any more:
/// if all slots are taken by then, it waits for one.
///
/// ```
/// use bytes::Bytes;
/// use ropewalk_middleware::{CallLimitLayer, CallRefused};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let full = ServiceBuilder::new()
///     .layer(CallLimitLayer::new(0).refuse())
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// let error = full.oneshot(Bytes::from("question")).await.unwrap_err();
/// assert!(error.is::<CallRefused>());
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct CallRefuseLayer {
    places: Arc<Places>,
}

impl CallRefuseLayer {
    pub(super) fn new(places: Arc<Places>) -> Self {
        Self { places }
    }

    /// How many calls are under way at this moment.
    pub fn active(&self) -> usize {
        self.places.taken()
    }

    /// The cap.
    pub fn max(&self) -> usize {
        self.places.max
    }
}

impl<S> Layer<S> for CallRefuseLayer {
    type Service = CallRefuse<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallRefuse::new(inner, Arc::clone(&self.places))
    }
}

/// A service that refuses calls over a cap; made by [`CallRefuseLayer`].
pub struct CallRefuse<S> {
    inner: S,
    places: Arc<Places>,
    /// The next call found room, and the service behind was asked whether it is ready. What that one reserves is used.
    admitted: bool,
    /// For the next call.
    place: Option<Place>,
    ticket: Option<Ticket>,
}

impl<S> CallRefuse<S> {
    fn new(inner: S, places: Arc<Places>) -> Self {
        Self { inner, places, admitted: false, place: None, ticket: None }
    }

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

impl<S: Clone> Clone for CallRefuse<S> {
    /// Another service under the same cap. It has no slot yet: readiness is not cloned.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.places))
    }
}

impl<S, F> Service<F> for CallRefuse<S>
where
    S: Service<F>,
    S::Error: Into<BoxError>,
    F: Frame,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CallRefuseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !self.admitted {
            self.place = self.places.take_now();
            if self.place.is_none() {
                // The call is refused. What the service behind reserves for one, it would keep.
                return Poll::Ready(Ok(()));
            }
            self.admitted = true;
        }
        let polled = self.inner.poll_ready(cx);
        if !matches!(polled, Poll::Ready(Ok(()))) {
            // Others can use it meanwhile, as under a `CallLimit`.
            self.place = None;
            self.admitted = polled.is_pending();
            return polled.map_err(Into::into);
        }
        if self.place.is_none() {
            self.place = Some(ready!(self.places.poll_take(&mut self.ticket, cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// Called without having been ready, it is refused.
    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        self.admitted = false;
        let place = self.place.take();
        CallRefuseFuture { future: place.is_some().then(|| self.inner.call(frame)), place }
    }
}

impl<S: fmt::Debug> fmt::Debug for CallRefuse<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallRefuse")
            .field("inner", &self.inner)
            .field("max", &self.places.max)
            .field("active", &self.places.taken())
            .finish_non_exhaustive()
    }
}

/// A call that has its place, or is refused.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallRefuseFuture<F> {
    /// None for a call that was not made.
    #[pin]
    future: Option<F>,
    place: Option<Place>,
}

impl<F, T, E> Future for CallRefuseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Ready(Err(CallRefused(()).into())) };
        let polled = future.poll(cx);
        if polled.is_ready() {
            // Here, and not when somebody gets round to dropping a future that is done.
            *this.place = None;
        }
        polled.map_err(Into::into)
    }
}

/// The error of a call over the cap of a [`CallRefuseLayer`]: it was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRefused(());

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many calls are under way")
    }
}

impl Error for CallRefused {}
