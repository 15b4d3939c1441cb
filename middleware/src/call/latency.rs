use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::Histogram;
use crate::Frame;

/// One call in so many is timed, once a connection has had as many.
const SAMPLE: u64 = 16;

/// Keeps a histogram of how long calls take, those of all connections together.
///
/// The first 16 calls of a connection are timed, and of the others one in 16, which counts for 16. So a call costs next
/// to nothing in the mean, and the quantiles are those of a sample; [`every_call`](Self::every_call) times them all, at
/// two looks at the clock and about three counters each. The time runs from the call to its answer. A call that is
/// dropped counts with the time it had: a deadline around this layer is seen in the histogram.
///
/// It goes around frames only.
///
/// ```
/// use bytes::Bytes;
/// use ropewalk_middleware::CallLatencyLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let latency = CallLatencyLayer::new();
/// let histogram = latency.histogram();
/// let echo = ServiceBuilder::new()
///     .layer(latency)
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// echo.oneshot(Bytes::from("hello")).await?;
/// println!("{} calls, half of them below {:?}", histogram.count(), histogram.quantile(0.5));
/// # assert_eq!(histogram.count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct CallLatencyLayer {
    histogram: Histogram,
    sample: u64,
}

impl CallLatencyLayer {
    /// A layer with an empty histogram, which times one call in 16.
    pub fn new() -> Self {
        Self { histogram: Histogram::new(), sample: SAMPLE }
    }

    /// The same, but it times every call.
    pub fn every_call(self) -> Self {
        Self { sample: 1, ..self }
    }

    /// The histogram: it fills as calls are made.
    pub fn histogram(&self) -> Histogram {
        self.histogram.clone()
    }
}

impl Default for CallLatencyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CallLatencyLayer {
    type Service = CallLatency<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallLatency { inner, histogram: self.histogram.clone(), sample: self.sample, calls: 0 }
    }
}

/// A service whose calls are timed; made by [`CallLatencyLayer`].
#[derive(Debug)]
pub struct CallLatency<S> {
    inner: S,
    histogram: Histogram,
    sample: u64,
    calls: u64,
}

impl<S> CallLatency<S> {
    /// The service behind this one.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind this one, which nobody times.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// For how many calls the next one stands; `None` if it is not timed.
    fn weigh(&mut self) -> Option<u64> {
        let before = self.calls;
        self.calls += 1;
        if before < self.sample {
            Some(1)
        } else {
            // A power of two: cheaper than a division.
            (before & (self.sample - 1) == 0).then_some(self.sample)
        }
    }
}

impl<S: Clone> Clone for CallLatency<S> {
    /// Another service on the same histogram, with its own first calls.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), histogram: self.histogram.clone(), sample: self.sample, calls: 0 }
    }
}

impl<S, F> Service<F> for CallLatency<S>
where
    S: Service<F>,
    F: Frame,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallLatencyFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        // Before the call: a service may do all its work in it.
        let timing = self.weigh().map(|weight| Timing::start(weight, &self.histogram));
        CallLatencyFuture { future: self.inner.call(frame), timing }
    }
}

/// A call, timed or not.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallLatencyFuture<F> {
    #[pin]
    future: F,
    timing: Option<Timing>,
}

impl<F: Future> Future for CallLatencyFuture<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        *this.timing = None;
        Poll::Ready(output)
    }
}

/// Counts the time until it is dropped.
#[derive(Debug)]
struct Timing {
    start: Instant,
    weight: u64,
    histogram: Histogram,
}

impl Timing {
    #[cold]
    fn start(weight: u64, histogram: &Histogram) -> Self {
        Self { weight, histogram: histogram.clone(), start: Instant::now() }
    }
}

impl Drop for Timing {
    #[cold]
    fn drop(&mut self) {
        self.histogram.record(self.start.elapsed(), self.weight);
    }
}
