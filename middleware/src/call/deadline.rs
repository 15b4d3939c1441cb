use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::timer::{self, DeadlineTimer};
use crate::{BoxError, Frame};

/// Limits how long each call may take.
///
/// After that time the call is dropped and fails with [`CallTimedOut`]. Under `framed` the error
/// ends the connection, unless `on_error` turns it into an answer. As with tower's `Timeout` the
/// error is boxed; errors of the inner service are passed on unchanged.
///
/// Unlike with tower's, a call that is answered at once needs no timer and doesn't read the clock.
/// The time counts from the first wait of the call. The calls of a connection reuse one timer
/// ([`CallTimer`](crate::CallTimer)), which is reset only when it fires; calls that wait at the
/// same time have one each. Outside `framed` and `Session::drive` each call that waits makes its
/// own. The time until the service is ready doesn't count: a call begins when it is made.
///
/// It goes around frames only. [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) limits how long the
/// *peer* may take.
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
        CallDeadline { inner, patience: self.patience }
    }
}

/// A service whose calls have a deadline; made by [`CallDeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct CallDeadline<S> {
    inner: S,
    patience: Duration,
}

impl<S> CallDeadline<S> {
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
        CallDeadlineFuture { future: self.inner.call(frame), patience: self.patience, timer: None }
    }
}

/// A call under a deadline.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallDeadlineFuture<F> {
    #[pin]
    future: F,
    patience: Duration,
    /// Set at the first wait.
    timer: Option<Pin<Box<DeadlineTimer>>>,
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
        match this.future.poll(cx) {
            Poll::Ready(result) => {
                if let Some(timer) = this.timer.take() {
                    timer::put_back(timer);
                }
                Poll::Ready(result.map_err(Into::into))
            }
            Poll::Pending => wait(this.timer, *this.patience, cx),
        }
    }
}

/// A function of its own, so that calls that are answered at once stay small.
#[inline(never)]
fn wait<T>(
    timer: &mut Option<Pin<Box<DeadlineTimer>>>,
    patience: Duration,
    cx: &mut Context<'_>,
) -> Poll<Result<T, BoxError>> {
    let timer = timer.get_or_insert_with(|| timer::take(patience));
    timer.as_mut().poll(cx).map(|()| Err(CallTimedOut(()).into()))
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
