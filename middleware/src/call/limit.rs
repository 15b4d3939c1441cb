use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::refuse::CallRefuseLayer;
use super::slots::{CallSlot, CallSlots, QueueTicket};
use crate::Frame;

/// Limits how many calls are under way at once, those of all connections together.
///
/// A layer value and its clones share one count, and so do all services made from them, including
/// the clone for each connection. At the limit the service is not ready, and the connection that
/// has waited longest is next; with [`refuse`](Self::refuse), the call fails instead. A slot is
/// released when the call is done or dropped. An idle connection holds no slot.
///
/// Under tower's `load_shed` it does: a call that `load_shed` refuses stays in the queue, and its
/// connection is given a slot that it doesn't use before its next frame, as under tower's
/// `ConcurrencyLimit`.
///
/// It replaces tower's `ConcurrencyLimit` without a semaphore: a call that finds a free slot costs
/// two counters. `concurrent` on the leaf sets how many calls of *one* connection run at once.
///
/// It goes around frames only; [`ConnectionLimitLayer`](crate::ConnectionLimitLayer) limits
/// connections.
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
    slots: Arc<CallSlots>,
}

impl CallLimitLayer {
    /// At most `max` calls at once; the others wait. With 0 no call is made.
    pub fn new(max: usize) -> Self {
        Self { slots: CallSlots::new(max) }
    }

    /// The same limit for calls that do not wait: above it they fail with
    /// [`CallRefused`](super::CallRefused).
    pub fn refuse(self) -> CallRefuseLayer {
        CallRefuseLayer::new(self.slots)
    }

    /// How many slots are taken at this moment, by calls under way or about to be made.
    pub fn active(&self) -> usize {
        self.slots.taken()
    }

    /// The limit.
    pub fn max(&self) -> usize {
        self.slots.max
    }
}

impl<S> Layer<S> for CallLimitLayer {
    type Service = CallLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallLimit { inner, slots: Arc::clone(&self.slots), slot: None, ticket: None }
    }
}

/// A service with a limit on its calls; made by [`CallLimitLayer`].
pub struct CallLimit<S> {
    inner: S,
    slots: Arc<CallSlots>,
    /// The slot for the next call, taken by `poll_ready`.
    slot: Option<CallSlot>,
    ticket: Option<QueueTicket>,
}

impl<S> CallLimit<S> {
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

impl<S: Clone> Clone for CallLimit<S> {
    /// Another service under the same limit. It has no slot yet: readiness is not cloned.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), slots: Arc::clone(&self.slots), slot: None, ticket: None }
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
        if self.slot.is_none() {
            self.slot = Some(ready!(self.slots.poll_take(&mut self.ticket, cx)));
        }
        let ready = self.inner.poll_ready(cx);
        if ready.is_pending() {
            // Released for others, because the inner service may wait for long, as a rate does for
            // its peer's next token.
            self.slot = None;
        }
        ready
    }

    /// A call without a slot, before the service was ready, is made and counted all the same.
    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        let slot = self.slot.take().unwrap_or_else(|| self.slots.take_above_max());
        CallLimitFuture { future: self.inner.call(frame), slot: Some(slot) }
    }
}

impl<S: fmt::Debug> fmt::Debug for CallLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallLimit")
            .field("inner", &self.inner)
            .field("max", &self.slots.max)
            .field("active", &self.slots.taken())
            .finish_non_exhaustive()
    }
}

/// A call that has its slot.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallLimitFuture<F> {
    #[pin]
    future: F,
    slot: Option<CallSlot>,
}

impl<F: Future> Future for CallLimitFuture<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        // Released here, because a finished future may be dropped much later.
        *this.slot = None;
        Poll::Ready(output)
    }
}
