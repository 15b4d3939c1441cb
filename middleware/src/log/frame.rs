use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::panicking;
use std::time::Instant;

use pin_project::{pin_project, pinned_drop};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, enabled};

use super::at_level;
use crate::event::{contain, event, may_log};
use crate::{Escaped, Frame};

/// Logs every received frame, and how its call ended.
///
/// The line of a frame has `len`, its length in bytes, and `text`, the frame escaped and cut. The
/// line of the call's end has `outcome` (`ok`, `error`, `panic`, or `dropped` when it was dropped
/// unfinished), `duration_us`, and `error`. The target is `ropewalk::frame`; the level is DEBUG by
/// default ([`level`](Self::level)). If the level is disabled, nothing is formatted, allocated or
/// timed. The end of a call that is answered is logged when its future is dropped, which `framed`
/// does at once.
///
/// Frames that are not bytes are logged by [`FrameLogLayer::debug`].
///
/// It goes around services of frames that are `AsRef<[u8]>`. A frame of a type of your own needs an
/// `impl AsRef<[u8]>` that returns the bytes to log. Connections are logged by
/// [`LogLayer`](super::LogLayer).
///
/// ```
/// use bytes::Bytes;
/// use ropewalk_middleware::FrameLogLayer;
/// use tower::{ServiceBuilder, service_fn};
///
/// let echo = ServiceBuilder::new()
///     .layer(FrameLogLayer::new())
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct FrameLogLayer<T = AsBytes> {
    level: Level,
    text: PhantomData<T>,
}

impl FrameLogLayer {
    /// A layer that logs at DEBUG.
    pub fn new() -> Self {
        Self { level: Level::DEBUG, text: PhantomData }
    }
}

impl FrameLogLayer<AsDebug> {
    /// A layer for frames that are not bytes, such as those of a codec with `map`: `text` is their
    /// `Debug` output, escaped and cut, and there is no `len`. A frame that contains a password
    /// needs a `Debug` without it.
    ///
    /// ```
    /// use ropewalk_middleware::FrameLogLayer;
    /// use tower::{ServiceBuilder, service_fn};
    ///
    /// #[derive(Debug)]
    /// enum Command {
    ///     Get(String),
    ///     Quit,
    /// }
    ///
    /// let service = ServiceBuilder::new()
    ///     .layer(FrameLogLayer::debug())
    ///     .service(service_fn(async |command: Command| Ok::<_, std::io::Error>(matches!(command, Command::Quit))));
    /// # let _ = (service, Command::Get(String::new()));
    /// ```
    pub fn debug() -> Self {
        Self { level: Level::DEBUG, text: PhantomData }
    }
}

impl<T> FrameLogLayer<T> {
    /// The same at another level.
    pub fn level(self, level: Level) -> Self {
        Self { level, text: PhantomData }
    }
}

/// Frames are logged as bytes.
#[derive(Clone, Copy, Debug)]
pub struct AsBytes(());

/// Frames are logged by their `Debug` output.
#[derive(Clone, Copy, Debug)]
pub struct AsDebug(());

/// How the text of a frame is made: [`AsBytes`] or [`AsDebug`]. Sealed.
pub trait FrameText<F>: sealed::Sealed {
    /// Logs the frame at this level.
    #[doc(hidden)]
    fn log(level: Level, frame: &F);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AsBytes {}
    impl Sealed for super::AsDebug {}
}

impl<F: AsRef<[u8]>> FrameText<F> for AsBytes {
    fn log(level: Level, frame: &F) {
        let frame = frame.as_ref();
        at_level!(level, AT => {
            event!(target: "ropewalk::frame", AT, len = frame.len(), text = ?Escaped::new(frame), "frame");
        });
    }
}

impl<F: Debug + Frame> FrameText<F> for AsDebug {
    fn log(level: Level, frame: &F) {
        let text = Shown(frame);
        at_level!(level, AT => event!(target: "ropewalk::frame", AT, text = ?Escaped::display(&text), "frame"));
    }
}

/// A frame as its `Debug` prints it.
struct Shown<'a, F>(&'a F);

impl<F: Debug> Display for Shown<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for FrameLogLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, T> Layer<S> for FrameLogLayer<T> {
    type Service = FrameLog<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        FrameLog { inner, level: self.level, text: PhantomData }
    }
}

/// A service whose frames are logged; made by [`FrameLogLayer`].
#[derive(Clone, Copy, Debug)]
pub struct FrameLog<S, T = AsBytes> {
    inner: S,
    level: Level,
    text: PhantomData<T>,
}

impl<S, T> FrameLog<S, T> {
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

impl<S, T, F> Service<F> for FrameLog<S, T>
where
    S: Service<F>,
    S::Error: Display,
    T: FrameText<F>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = FrameLogFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        // Checked in place, because usually no subscriber enables this level.
        let mut calling = Calling(if may_log(self.level) {
            LoggedCall::start::<T, F>(self.level, &frame)
        } else {
            None
        });
        let future = self.inner.call(frame);
        FrameLogFuture { future, outcome: CallOutcome::Waits, timing: calling.0.take() }
    }
}

/// A call that is being made: a service may do its work there, and may panic.
struct Calling(Option<LoggedCall>);

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(timing) = &self.0 {
            ended(timing, CallOutcome::Polled);
        }
    }
}

/// A call that is logged.
// The end is logged when the future is dropped, not when it is polled: an answer that is held
// across a call that might panic has to be stored and loaded again, which costs each frame more
// than computing the answer.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct FrameLogFuture<F> {
    #[pin]
    future: F,
    outcome: CallOutcome,
    timing: Option<LoggedCall>,
}

/// The state of a call.
#[derive(Clone, Copy, Debug)]
enum CallOutcome {
    Waits,
    /// Being polled. A panic leaves this state.
    Polled,
    Ok,
    /// Failed, and logged already.
    Failed,
}

impl<F, T, E> Future for FrameLogFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        *this.outcome = CallOutcome::Polled;
        match this.future.poll(cx) {
            Poll::Pending => {
                *this.outcome = CallOutcome::Waits;
                Poll::Pending
            }
            Poll::Ready(Ok(answer)) => {
                *this.outcome = CallOutcome::Ok;
                Poll::Ready(Ok(answer))
            }
            Poll::Ready(Err(error)) => {
                *this.outcome = CallOutcome::Failed;
                Poll::Ready(Err(failed(this.timing, error)))
            }
        }
    }
}

#[pinned_drop]
impl<F> PinnedDrop for FrameLogFuture<F> {
    #[inline]
    fn drop(self: Pin<&mut Self>) {
        if let Some(timing) = &self.timing {
            ended(timing, self.outcome);
        }
    }
}

/// Logs an error and returns it.
#[cold]
fn failed<E: Display>(timing: &Option<LoggedCall>, error: E) -> E {
    if let Some(timing) = timing {
        timing.end("error", Some(Escaped::display(&error)));
    }
    error
}

#[cold]
#[inline(never)]
fn ended(timing: &LoggedCall, outcome: CallOutcome) {
    match outcome {
        CallOutcome::Waits if !panicking() => timing.end("dropped", None),
        CallOutcome::Waits | CallOutcome::Polled => timing.end("panic", None),
        CallOutcome::Ok => timing.end("ok", None),
        CallOutcome::Failed => {}
    }
}

/// The beginning of a call that is logged.
#[derive(Clone, Copy, Debug)]
struct LoggedCall {
    level: Level,
    start: Instant,
}

impl LoggedCall {
    /// `None` if no subscriber enables this level.
    #[cold]
    fn start<T: FrameText<F>, F>(level: Level, frame: &F) -> Option<Self> {
        at_level!(level, AT => {
            if contain(|| enabled!(target: "ropewalk::frame", AT)) != Some(true) {
                return None;
            }
        });
        T::log(level, frame);
        Some(Self { level, start: Instant::now() })
    }

    #[cold]
    #[inline(never)]
    fn end(&self, outcome: &str, error: Option<Escaped<'_>>) {
        at_level!(self.level, AT => event!(
            target: "ropewalk::frame",
            AT,
            outcome,
            duration_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            error = error.map(tracing::field::debug),
            "answered",
        ));
    }
}
