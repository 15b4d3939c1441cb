use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, Frame};

/// Gives each call so long for its answer.
///
/// After that the call is dropped and has failed with [`CallTimedOut`]. Under `framed` that ends the connection, unless
/// `on_error` makes an answer of it. As with tower's `Timeout` the error is boxed; one of the service behind goes
/// through as it is.
///
/// Unlike tower's it costs a call that is answered at once neither a timer nor a look at the clock. The time runs from
/// the first time the call has to wait, and the calls of a connection share a timer, which is made by the first of them
/// and moved only when it fires. Calls that wait at the same time have one each. A service that is not ready is not
/// under the deadline: a call begins when it is made.
///
/// It goes around frames only. How long the *peer* may take is for [`ReadDeadlineLayer`](crate::ReadDeadlineLayer).
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use ropewalk_middleware::{CallDeadlineLayer, CallTimedOut};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let never = ServiceBuilder::new()
///     .layer(CallDeadlineLayer::new(Duration::from_millis(5)))
///     .service(service_fn(|_: Bytes| std::future::pending::<std::io::Result<Bytes>>()));
/// let error = never.oneshot(Bytes::from("question")).await.unwrap_err();
/// assert!(error.is::<CallTimedOut>());
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct CallDeadlineLayer {
    patience: Duration,
}

impl CallDeadlineLayer {
    /// Each call has this long.
    pub fn new(deadline: Duration) -> Self {
        Self { patience: deadline }
    }
}

impl<S> Layer<S> for CallDeadlineLayer {
    type Service = CallDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallDeadline { inner, timers: Timers::new(self.patience) }
    }
}

/// A service whose calls have a deadline; made by [`CallDeadlineLayer`].
#[derive(Debug)]
pub struct CallDeadline<S> {
    inner: S,
    timers: Arc<Timers>,
}

impl<S> CallDeadline<S> {
    /// The service behind the deadline.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the deadline, without it.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone> Clone for CallDeadline<S> {
    /// Another service with a timer of its own: it is for another connection.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), timers: Timers::new(self.timers.patience) }
    }
}

impl<S, F> Service<F> for CallDeadline<S>
where
    S: Service<F>,
    S::Error: Into<BoxError>,
    F: Frame,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CallDeadlineFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        CallDeadlineFuture { future: self.inner.call(frame), timers: Arc::clone(&self.timers), timer: None }
    }
}

/// What the calls of one connection share.
struct Timers {
    patience: Duration,
    /// The timer of the last call that waited, still set.
    spare: Mutex<Option<Pin<Box<Timer>>>>,
}

impl Timers {
    fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self { patience, spare: Mutex::new(None) })
    }

    fn spare(&self) -> MutexGuard<'_, Option<Pin<Box<Timer>>>> {
        // It is put in and taken out whole, whatever panicked.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Pin<Box<Timer>> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let now = Instant::now();
        let until = now.checked_add(self.patience).unwrap_or_else(|| now + YEAR);
        let spare = self.spare().take();
        match spare {
            // The last call had as long, from an earlier moment: its timer fires too early at worst.
            Some(mut timer) => {
                *timer.as_mut().project().until = until;
                timer
            }
            None => Box::pin(Timer { until, sleep: sleep_until(until) }),
        }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// Ready once `until` has passed, however early it was set to fire.
#[pin_project]
#[derive(Debug)]
struct Timer {
    until: Instant,
    #[pin]
    sleep: Sleep,
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let fired = this.sleep.as_mut().poll(cx).is_ready();
            if !fired && coop::has_budget_remaining() {
                return Poll::Pending;
            }
            // A call that has used up its task's turn makes every timer say "not yet", so the clock is asked.
            if Instant::now() >= *this.until {
                return Poll::Ready(());
            }
            if !fired {
                return Poll::Pending;
            }
            this.sleep.as_mut().reset(*this.until);
        }
    }
}

/// A call under a deadline.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallDeadlineFuture<F> {
    #[pin]
    future: F,
    timers: Arc<Timers>,
    /// From its first wait on.
    timer: Option<Pin<Box<Timer>>>,
}

impl<F, T, E> Future for CallDeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.future.poll(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let timer = this.timer.get_or_insert_with(|| this.timers.take());
        timer.as_mut().poll(cx).map(|()| Err(CallTimedOut(()).into()))
    }
}

#[pinned_drop]
impl<F> PinnedDrop for CallDeadlineFuture<F> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(timer) = this.timer.take() {
            // What is replaced is dropped when the lock is free: there is a waker in it.
            let _earlier = this.timers.spare().replace(timer);
        }
    }
}

/// The error of a call that took longer than its [`CallDeadlineLayer`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTimedOut(());

impl fmt::Display for CallTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call took longer than its deadline allows")
    }
}

impl Error for CallTimedOut {}
