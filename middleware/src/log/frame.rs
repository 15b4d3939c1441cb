use std::fmt::{Debug, Display};
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

/// Logs every frame that comes in, and how its call ended.
///
/// The line of a frame has `len`, its length in bytes, and `text`, the frame escaped and cut. The line of the call's
/// end has `outcome` (`ok`, `error`, `panic`, or `dropped` when it was given up), `duration_us`, and `error`. The
/// target is `ropewalk::frame`; the level DEBUG, unless [`level`](Self::level) says otherwise. Where the level is
/// disabled nothing is formatted, allocated or timed. The end of a call that is answered is logged when its future is
/// dropped, which `framed` does at once.
///
/// Frames that are not bytes are logged by [`FrameLogLayer::debug`].
///
/// It goes around frames only: a connection is not bytes, and [`LogLayer`](super::LogLayer) logs it.
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
    /// A layer for frames that are not bytes, such as those of a codec with `map`: `text` is what their `Debug` prints,
    /// escaped and cut, and there is no `len`. A frame that contains a password needs a `Debug` without it.
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

/// Frames are logged as the bytes they are.
#[derive(Clone, Copy, Debug)]
pub struct AsBytes(());

/// Frames are logged as their `Debug` prints them.
#[derive(Clone, Copy, Debug)]
pub struct AsDebug(());

/// How the text of a frame is found: [`AsBytes`] or [`AsDebug`]. Sealed.
pub trait FrameText<F>: sealed::Sealed {
    /// Logs it at this level.
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
        let text = format_args!("{frame:?}");
        at_level!(level, AT => event!(target: "ropewalk::frame", AT, text = ?Escaped::display(&text), "frame"));
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
    /// The service behind the log.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the log, without it.
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
        // The usual answer, in place: no subscriber wants this level.
        let mut calling = Calling(if may_log(self.level) { Timing::start::<T, F>(self.level, &frame) } else { None });
        let future = self.inner.call(frame);
        FrameLogFuture { future, outcome: Outcome::Waits, timing: calling.0.take() }
    }
}

/// A call that is being made: many a service does its work there, and may panic.
struct Calling(Option<Timing>);

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(timing) = &self.0 {
            ended(timing, Outcome::Polled);
        }
    }
}

/// A call that is logged.
// Its end is logged when it is dropped, not when it is polled: an answer that is held while something else is called,
// which might panic, is stored and loaded again for that, and costs each frame more than to find it.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct FrameLogFuture<F> {
    #[pin]
    future: F,
    outcome: Outcome,
    timing: Option<Timing>,
}

/// What has become of a call so far.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Waits,
    /// Where a panic leaves it, wherever that is caught.
    Polled,
    Ok,
    /// Logged already.
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
        *this.outcome = Outcome::Polled;
        match this.future.poll(cx) {
            Poll::Pending => {
                *this.outcome = Outcome::Waits;
                Poll::Pending
            }
            Poll::Ready(Ok(answer)) => {
                *this.outcome = Outcome::Ok;
                Poll::Ready(Ok(answer))
            }
            Poll::Ready(Err(error)) => {
                *this.outcome = Outcome::Failed;
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

/// Logs an error and gives it back.
#[cold]
fn failed<E: Display>(timing: &Option<Timing>, error: E) -> E {
    if let Some(timing) = timing {
        timing.end("error", Some(Escaped::display(&error)));
    }
    error
}

#[cold]
#[inline(never)]
fn ended(timing: &Timing, outcome: Outcome) {
    match outcome {
        Outcome::Waits if !panicking() => timing.end("dropped", None),
        Outcome::Waits | Outcome::Polled => timing.end("panic", None),
        Outcome::Ok => timing.end("ok", None),
        Outcome::Failed => {}
    }
}

/// When a call began, if a subscriber wants to know.
#[derive(Clone, Copy, Debug)]
struct Timing {
    level: Level,
    start: Instant,
}

impl Timing {
    /// `None` if no subscriber wants to know.
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
