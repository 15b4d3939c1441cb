use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::Histogram;
use crate::Frame;

/// One call in this many is timed, after a connection has had as many.
const SAMPLE: u64 = 16;

/// Keeps a histogram of the durations of calls, those of all connections together.
///
/// The first 16 calls of a connection are timed, and of the others one in 16, which counts 16
/// times. So the mean cost of a call is next to nothing, and the quantiles are those of a sample;
/// [`every_call`](Self::every_call) times all calls, which costs two readings of the clock and
/// about three counters each. The time counts from the call to its answer. A dropped call counts
/// with the time until it was dropped: a deadline around this layer shows in the histogram.
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
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, by value.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// How many times the next call counts; `None` if it is not timed.
    fn weigh(&mut self) -> Option<u64> {
        let before = self.calls;
        self.calls += 1;
        if before < self.sample {
            Some(1)
        } else {
            // The sample is a power of two, so no division is needed.
            (before & (self.sample - 1) == 0).then_some(self.sample)
        }
    }
}

impl<S: Clone> Clone for CallLatency<S> {
    /// Another service with the same histogram, whose own first calls are all timed.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            histogram: self.histogram.clone(),
            sample: self.sample,
            calls: 0,
        }
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
        // Started before the call, because a service may do all its work in `call`.
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

/// Records the time until it is dropped.
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
