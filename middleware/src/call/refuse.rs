use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::slots::{CallSlot, CallSlots, QueueTicket};
use crate::{BoxError, Frame};

/// Limits how many calls are under way at once, and fails those above the limit with
/// [`CallRefused`]; made by [`CallLimitLayer::refuse`](super::CallLimitLayer::refuse).
///
/// Under `framed` an error ends the connection, unless `on_error` turns it into an answer. The
/// error is boxed; errors of the inner service are passed on unchanged.
///
/// A refused call reserves nothing in the inner service, which is not even polled for readiness. A
/// call that found a free slot, and then has to wait until the inner service is ready, holds no
/// slot meanwhile and is no longer refused: if all slots are taken by then, it waits for one.
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
    slots: Arc<CallSlots>,
}

impl CallRefuseLayer {
    pub(super) fn new(slots: Arc<CallSlots>) -> Self {
        Self { slots }
    }

    /// How many calls are under way at this moment.
    pub fn active(&self) -> usize {
        self.slots.taken()
    }

    /// The limit.
    pub fn max(&self) -> usize {
        self.slots.max
    }
}

impl<S> Layer<S> for CallRefuseLayer {
    type Service = CallRefuse<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallRefuse::new(inner, Arc::clone(&self.slots))
    }
}

/// A service that refuses calls above a limit; made by [`CallRefuseLayer`].
pub struct CallRefuse<S> {
    inner: S,
    slots: Arc<CallSlots>,
    /// The next call found a free slot, and the inner service was polled for readiness: its
    /// reservation has to be used.
    admitted: bool,
    /// The slot for the next call.
    slot: Option<CallSlot>,
    ticket: Option<QueueTicket>,
}

impl<S> CallRefuse<S> {
    fn new(inner: S, slots: Arc<CallSlots>) -> Self {
        Self { inner, slots, admitted: false, slot: None, ticket: None }
    }

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

impl<S: Clone> Clone for CallRefuse<S> {
    /// Another service under the same limit. It has no slot yet: readiness is not cloned.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.slots))
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
            self.slot = self.slots.take_now();
            if self.slot.is_none() {
                // The call will be refused. The inner service is not polled, because it would keep
                // a reservation that is never used.
                return Poll::Ready(Ok(()));
            }
            self.admitted = true;
        }
        let polled = self.inner.poll_ready(cx);
        if !matches!(polled, Poll::Ready(Ok(()))) {
            // Released for others, as in `CallLimit`.
            self.slot = None;
            self.admitted = polled.is_pending();
            return polled.map_err(Into::into);
        }
        if self.slot.is_none() {
            self.slot = Some(ready!(self.slots.poll_take(&mut self.ticket, cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// A call before the service was ready is refused.
    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        self.admitted = false;
        let slot = self.slot.take();
        CallRefuseFuture { future: slot.is_some().then(|| self.inner.call(frame)), slot }
    }
}

impl<S: fmt::Debug> fmt::Debug for CallRefuse<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallRefuse")
            .field("inner", &self.inner)
            .field("max", &self.slots.max)
            .field("active", &self.slots.taken())
            .finish_non_exhaustive()
    }
}

/// A call that has its slot, or is refused.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallRefuseFuture<F> {
    /// `None` if the call was refused.
    #[pin]
    future: Option<F>,
    slot: Option<CallSlot>,
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
        let Some(future) = this.future.as_pin_mut() else {
            return Poll::Ready(Err(CallRefused(()).into()));
        };
        let polled = future.poll(cx);
        if polled.is_ready() {
            // Released here, because a finished future may be dropped much later.
            *this.slot = None;
        }
        polled.map_err(Into::into)
    }
}

/// The error of a call above the limit of a [`CallRefuseLayer`]: the call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRefused(());

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many calls are under way")
    }
}

impl Error for CallRefused {}
