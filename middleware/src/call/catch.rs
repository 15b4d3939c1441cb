//! Panics of calls as errors.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, Frame};

/// Turns a panic of a call into the error [`CallPanicked`], which `on_error` of the leaf can answer. Without this layer a
/// panic ends its connection, and nothing else.
///
/// It is for services whose calls leave nothing half done behind when they panic. After the panic the service is
/// called again for the next frame. A panic in `poll_ready` is not caught, and neither is any with `panic = "abort"`. A
/// call costs some 20 ns more.
///
/// It goes around frames only, and takes them of any type that is [`Frame`]. The error is boxed; one of the service behind
/// goes through as it is.
///
/// ```
/// use bytes::Bytes;
/// use ropewalk_middleware::{CallPanicked, CatchPanicLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(CatchPanicLayer::new())
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame[7])));
/// let error = service.oneshot(Bytes::from("short")).await.unwrap_err();
/// assert!(error.is::<CallPanicked>());
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct CatchPanicLayer(());

impl CatchPanicLayer {
    /// The layer.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic { inner }
    }
}

/// A service whose panics are errors; made by [`CatchPanicLayer`].
#[derive(Clone, Copy, Debug)]
pub struct CatchPanic<S> {
    inner: S,
}

impl<S> CatchPanic<S> {
    /// The service behind.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind, without this one.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A call panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPanicked {
    text: Option<String>,
}

impl CallPanicked {
    /// The text of the panic, where it has one. It may quote what the peer has sent: it is not for the peer, and in a log it
    /// is to be [`Escaped`](crate::Escaped).
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    #[cold]
    fn caught(panic: Box<dyn Any + Send>) -> BoxError {
        let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => Some((*text).to_owned()),
            (_, text) => text.cloned(),
        };
        // What it was thrown with may panic as it goes. Then that is left where it is.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(another);
        }
        Box::new(Self { text })
    }
}

impl fmt::Display for CallPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call panicked")
    }
}

impl Error for CallPanicked {}

impl<S, F> Service<F> for CatchPanic<S>
where
    F: Frame,
    S: Service<F, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CatchPanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, frame: F) -> Self::Future {
        let call = catch_unwind(AssertUnwindSafe(|| self.inner.call(frame)));
        CatchPanicFuture { state: call.map_or_else(|panic| State::Panicked(Some(panic)), State::Calls) }
    }
}

/// The future of [`CatchPanic`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct CatchPanicFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = Projection)]
enum State<F> {
    Calls(#[pin] F),
    /// It was never made, or is over.
    Panicked(Option<Box<dyn Any + Send>>),
}

impl<F, T, E> Future for CatchPanicFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let panic = match state.as_mut().project() {
            Projection::Calls(call) => match catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
                Ok(polled) => return polled.map_err(Into::into),
                Err(panic) => panic,
            },
            Projection::Panicked(panic) => {
                let Some(panic) = panic.take() else { return Poll::Pending };
                return Poll::Ready(Err(CallPanicked::caught(panic)));
            }
        };
        // What the call owned may panic as it goes, too; and it is not polled again.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| state.set(State::Panicked(None)))) {
            std::mem::forget(another);
        }
        Poll::Ready(Err(CallPanicked::caught(panic)))
    }
}

impl<F> fmt::Debug for CatchPanicFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanicFuture").finish_non_exhaustive()
    }
}
