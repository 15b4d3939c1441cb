use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::panicking;
use std::time::Instant;

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, enabled, event};

use super::at_level;
use crate::Escaped;

/// Logs every frame that comes in, and how its call ended.
///
/// The line of a frame has `len`, its length in bytes, and `text`, the frame escaped and cut. The line of the call's end
/// has `outcome` (`ok`, `error`, `panic`, or `dropped` when nobody waited for it), `duration_us`, and `error`. The
/// target is `ropewalk::frame`; the level DEBUG, unless [`level`](Self::level) says otherwise. Where the level is
/// disabled nothing is formatted, allocated or timed.
///
/// It goes around frames only: a connection is no bytes, and [`LogLayer`](super::LogLayer) logs it.
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
pub struct FrameLogLayer {
    level: Level,
}

impl FrameLogLayer {
    /// A layer that logs at DEBUG.
    pub fn new() -> Self {
        Self { level: Level::DEBUG }
    }

    /// The same at another level.
    pub fn level(self, level: Level) -> Self {
        Self { level }
    }
}

impl Default for FrameLogLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for FrameLogLayer {
    type Service = FrameLog<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FrameLog { inner, level: self.level }
    }
}

/// A service whose frames are logged; made by [`FrameLogLayer`].
#[derive(Clone, Copy, Debug)]
pub struct FrameLog<S> {
    inner: S,
    level: Level,
}

impl<S> FrameLog<S> {
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

impl<S, F> Service<F> for FrameLog<S>
where
    S: Service<F>,
    S::Error: Display,
    F: AsRef<[u8]>,
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
        let timing = Timing::start(self.level, frame.as_ref());
        FrameLogFuture { future: self.inner.call(frame), timing }
    }
}

/// A call that is logged.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct FrameLogFuture<F> {
    #[pin]
    future: F,
    /// Boxed: mostly there is none, and then the future is to be small.
    timing: Option<Box<Timing>>,
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
        // Out of the future while it is polled, so that a panic meets it.
        let timing = this.timing.take();
        let polled = this.future.poll(cx);
        match (&polled, timing) {
            (Poll::Pending, timing) => *this.timing = timing,
            (Poll::Ready(Ok(_)), Some(timing)) => timing.end("ok", None),
            (Poll::Ready(Err(error)), Some(timing)) => timing.end("error", Some(Escaped::display(error))),
            (Poll::Ready(_), None) => {}
        }
        polled
    }
}

/// A call that has begun; its end is logged, at the latest when this is dropped.
#[derive(Debug)]
struct Timing {
    level: Level,
    start: Instant,
    ended: bool,
}

impl Timing {
    /// None if nobody wants to know.
    fn start(level: Level, frame: &[u8]) -> Option<Box<Self>> {
        at_level!(level, AT => {
            if !enabled!(target: "ropewalk::frame", AT) {
                return None;
            }
            event!(target: "ropewalk::frame", AT, len = frame.len(), text = ?Escaped::new(frame), "frame");
        });
        Some(Box::new(Self { level, start: Instant::now(), ended: false }))
    }

    fn end(mut self, outcome: &str, error: Option<Escaped<'_>>) {
        self.log(outcome, error);
    }

    fn log(&mut self, outcome: &str, error: Option<Escaped<'_>>) {
        self.ended = true;
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

impl Drop for Timing {
    fn drop(&mut self) {
        if !self.ended {
            self.log(if panicking() { "panic" } else { "dropped" }, None);
        }
    }
}
