//! Turns panics of calls into errors.

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

/// Turns a panic of a call into the error [`CallPanicked`], which `on_error` of the leaf can
/// answer. Without this layer a panic ends its connection, but not the server.
///
/// It is for services whose state stays consistent when a call panics, because the service is
/// called again for the next frame. Panics in `poll_ready` are not caught, and with `panic =
/// "abort"` no panics are caught. A call costs two `catch_unwind`s.
///
/// It goes around services of frames only, with any frame type that is [`Frame`]. The error is
/// boxed; errors of the inner service are passed on unchanged.
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

/// A service whose panics become errors; made by [`CatchPanicLayer`].
#[derive(Clone, Copy, Debug)]
pub struct CatchPanic<S> {
    inner: S,
}

impl<S> CatchPanic<S> {
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

/// A call panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPanicked {
    text: Option<String>,
}

impl CallPanicked {
    /// The text of the panic, if it has one. It may quote data that the peer has sent: don't send
    /// it to the peer, and write it to a log only [`Escaped`](crate::Escaped).
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    #[cold]
    fn caught(panic: Box<dyn Any + Send>) -> BoxError {
        let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => Some((*text).to_owned()),
            (_, text) => text.cloned(),
        };
        // Dropping the panic's payload may panic as well. Then the second payload is leaked.
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
        CatchPanicFuture {
            state: call.map_or_else(|panic| CatchStage::Panicked(Some(panic)), CatchStage::Calls),
        }
    }
}

/// The future of [`CatchPanic`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct CatchPanicFuture<F> {
    #[pin]
    state: CatchStage<F>,
}

#[pin_project(project = Projection)]
enum CatchStage<F> {
    Calls(#[pin] F),
    /// The call panicked while it was made (with the payload), or the future has ended.
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
        // Dropping the call's values may panic as well, and the call must not be polled again.
        if let Err(another) =
            catch_unwind(AssertUnwindSafe(|| state.set(CatchStage::Panicked(None))))
        {
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
