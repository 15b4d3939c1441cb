//! Limits on the frames, or bytes, that a peer may send in a time.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::Frame;

/// Limits the rate of each connection's frames, by their number or by their bytes.
///
/// Every connection has a bucket of tokens, full at first, that fills up again at the rate. A frame
/// takes one token, or one for each of its bytes. While there are no tokens left the service is not
/// ready; then the leaf reads no more than one buffer ahead, and the peer has to wait because its
/// socket is full. No frame is refused or lost. For both limits use two layers.
///
/// The clock is read only when the bucket is empty. So over time the rate is exact, but a peer that
/// was silent for long may send up to twice the burst at once, as with tower's windows. A frame may
/// take more tokens than there are: then the next one waits until the deficit is made up.
///
/// Unlike tower's `RateLimit` it is `Clone`, and each clone has its own bucket, as `framed` needs
/// it.
///
/// It goes around frames only.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use ropewalk_middleware::FrameRateLayer;
/// use tower::{ServiceBuilder, service_fn};
///
/// let second = Duration::from_secs(1);
/// let echo = ServiceBuilder::new()
///     .layer(FrameRateLayer::new(100, second))
///     .layer(FrameRateLayer::bytes(64 * 1024, second).burst(1024 * 1024))
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct FrameRateLayer<C = PerFrame> {
    rate: TokenRate,
    cost: PhantomData<fn() -> C>,
}

impl FrameRateLayer {
    /// At most `frames` in each `per`, and as many at once.
    ///
    /// # Panics
    ///
    /// Panics if either is zero.
    pub fn new(frames: u32, per: Duration) -> Self {
        Self { rate: TokenRate::new(frames.into(), per), cost: PhantomData }
    }

    /// At most `bytes` in each `per`, and as many at once. An empty frame counts as one byte.
    ///
    /// # Panics
    ///
    /// Panics if either is zero.
    pub fn bytes(bytes: u32, per: Duration) -> FrameRateLayer<PerByte> {
        FrameRateLayer { rate: TokenRate::new(bytes.into(), per), cost: PhantomData }
    }
}

impl<C> FrameRateLayer<C> {
    /// Sets the size of the bucket: how much may come at once.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    pub fn burst(mut self, burst: u32) -> Self {
        assert!(burst > 0, "a burst of 0 would let no frame through");
        self.rate.burst = burst.into();
        self
    }
}

impl<C> Clone for FrameRateLayer<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for FrameRateLayer<C> {}

impl<C> fmt::Debug for FrameRateLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameRateLayer").field("rate", &self.rate).finish()
    }
}

impl<S, C> Layer<S> for FrameRateLayer<C> {
    type Service = FrameRate<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        FrameRate { inner, bucket: TokenBucket::new(self.rate), cost: PhantomData }
    }
}

/// The number of tokens that a frame takes. Sealed.
pub trait Cost<F>: sealed::Sealed {
    #[doc(hidden)]
    fn of(frame: &F) -> i64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::PerFrame {}
    impl Sealed for super::PerByte {}
}

/// Frames are counted.
#[derive(Clone, Copy, Debug)]
pub struct PerFrame(());

/// The bytes of frames are counted.
#[derive(Clone, Copy, Debug)]
pub struct PerByte(());

impl<F: Frame> Cost<F> for PerFrame {
    fn of(_: &F) -> i64 {
        1
    }
}

impl<F: Frame + AsRef<[u8]>> Cost<F> for PerByte {
    fn of(frame: &F) -> i64 {
        i64::try_from(frame.as_ref().len()).unwrap_or(i64::MAX).max(1)
    }
}

/// A service whose frames are limited to a rate; made by [`FrameRateLayer`].
pub struct FrameRate<S, C = PerFrame> {
    inner: S,
    bucket: TokenBucket,
    cost: PhantomData<fn() -> C>,
}

impl<S, C> FrameRate<S, C> {
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

impl<S: Clone, C> Clone for FrameRate<S, C> {
    /// Another service with a full bucket of its own, because each clone serves another connection.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            bucket: TokenBucket::new(self.bucket.rate),
            cost: PhantomData,
        }
    }
}

impl<S, C, F> Service<F> for FrameRate<S, C>
where
    S: Service<F>,
    C: Cost<F>,
    F: Frame,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.bucket.tokens <= 0 {
            ready!(self.bucket.poll_fill(cx));
        }
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        self.bucket.take(C::of(&frame));
        self.inner.call(frame)
    }
}

impl<S: fmt::Debug, C> fmt::Debug for FrameRate<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameRate")
            .field("inner", &self.inner)
            .field("rate", &self.bucket.rate)
            .field("tokens", &self.bucket.tokens)
            .finish()
    }
}

/// A rate at which tokens arrive, and the most that a bucket holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRate {
    tokens: i64,
    per: Duration,
    pub(crate) burst: i64,
}

impl TokenRate {
    pub(crate) fn new(tokens: i64, per: Duration) -> Self {
        assert!(tokens > 0 && !per.is_zero(), "a rate has a number and a time");
        Self { tokens, per, burst: tokens }
    }

    /// How many tokens arrive in a time; `i64::MAX` if there are more.
    pub(crate) fn tokens_in(&self, time: Duration) -> i64 {
        let tokens =
            time.as_nanos().saturating_mul(self.tokens.unsigned_abs().into()) / self.per.as_nanos();
        i64::try_from(tokens).unwrap_or(i64::MAX)
    }

    /// How long this many tokens take to arrive, rounded up.
    pub(crate) fn time_of(&self, tokens: i64) -> Duration {
        let tokens = u128::from(tokens.unsigned_abs());
        let nanos =
            tokens.saturating_mul(self.per.as_nanos()).div_ceil(self.tokens.unsigned_abs().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The tokens of one connection.
struct TokenBucket {
    rate: TokenRate,
    /// Negative after a frame that took more tokens than there were.
    tokens: i64,
    /// The tokens that arrived until then are in `tokens`. `None` while the bucket is new, and so
    /// full.
    filled: Option<Instant>,
    /// Made at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl TokenBucket {
    fn new(rate: TokenRate) -> Self {
        Self { rate, tokens: rate.burst, filled: None, timer: None }
    }

    #[inline]
    fn take(&mut self, tokens: i64) {
        if self.filled.is_none() {
            self.filled = Some(Instant::now());
        }
        self.tokens = self.tokens.saturating_sub(tokens);
    }

    /// Ready when there is a token.
    #[cold]
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let filled = *self.filled.get_or_insert(now);
            let came = self.rate.tokens_in(now - filled);
            self.tokens = self.tokens.saturating_add(came);
            if self.tokens >= self.rate.burst {
                // Tokens beyond the burst are lost.
                self.tokens = self.rate.burst;
                self.filled = Some(now);
            } else {
                // The fraction of a token that has arrived too stays counted.
                self.filled = Some((filled + self.rate.time_of(came)).min(now));
            }
            if self.tokens > 0 {
                return Poll::Ready(());
            }
            let wait = self.rate.time_of(1 - self.tokens);
            let until = self
                .filled
                .and_then(|filled| filled.checked_add(wait))
                .unwrap_or(now + Duration::from_secs(3600));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}
