//! Rates of frames that connections share: [`KeyRateLayer`], which waits,
//! [`KeyRateRefuseLayer`], which refuses, and [`AnswerRateLayer`], for the frames of answers.

mod answers;
mod buckets;
mod refuse;

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

pub use self::answers::{AnswerRate, AnswerRateFuture, AnswerRateLayer};
use self::buckets::{KeyBucket, KeyBuckets};
pub use self::refuse::{
    ByFrame, FrameKey, KeyRateRefuse, KeyRateRefuseFuture, KeyRateRefuseLayer, OneKey, RateExceeded,
};
use crate::Frame;
use crate::rate::TokenRate;

/// The most keys remembered at once.
const MAX_KEYS: usize = 65_536;

/// A rate of frames for each key: the buckets that layers take their tokens from.
///
/// A key is that of a connection, such as its address or tenant: [`of`](Self::of) makes the layer
/// for a connection, which [`Framed::layer_with`](https://docs.rs/ropewalk) asks for when it opens.
/// Or it is found in each frame, such as the user that a request names: [`by`](Self::by). All
/// layers made from one `KeyRates` and its clones share its buckets.
///
/// At most [`MAX_KEYS`](Self::MAX_KEYS) keys are remembered, until their buckets are full and no
/// connection uses them. When the table is full, an eighth of those that no connection uses is
/// forgotten, so that a peer that names many keys does not keep others out: a key that comes again
/// has a full bucket. If connections use them all, further keys share one bucket.
/// [`untracked`](Self::untracked) counts both.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use ropewalk_middleware::key_rate::KeyRates;
///
/// // Ten frames a second for each user, named in front of a colon.
/// let users = KeyRates::<Vec<u8>>::new(10, Duration::from_secs(1)).burst(50);
/// let layer = users.by(|frame: &Bytes| frame.split(|b| *b == b':').next().unwrap_or_default().to_vec());
/// # let _ = layer;
/// ```
pub struct KeyRates<K> {
    buckets: Arc<KeyBuckets<K>>,
}

impl<K: Clone + Eq + Hash> KeyRates<K> {
    /// The most keys remembered at once.
    pub const MAX_KEYS: usize = MAX_KEYS;

    /// At most `frames` in each `per`, and as many at once, for each key.
    ///
    /// # Panics
    ///
    /// Panics if either is zero.
    #[must_use]
    pub fn new(frames: u32, per: Duration) -> Self {
        Self { buckets: KeyBuckets::new(TokenRate::new(frames.into(), per)) }
    }

    /// Sets the size of each bucket: how much may come at once. The buckets are new, not shared
    /// with earlier clones.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        assert!(burst > 0, "a burst of 0 would let no frame through");
        Self { buckets: self.buckets.with_burst(burst) }
    }

    /// A layer for connections with this key. Frames over the rate wait; [`KeyRateLayer::refuse`]
    /// makes them fail.
    pub fn of(&self, key: K) -> KeyRateLayer<K> {
        KeyRateLayer { buckets: Arc::clone(&self.buckets), key }
    }

    /// A layer that finds the key in each frame. Frames over the rate fail with [`RateExceeded`];
    /// they can't wait, because they would have to be stored.
    ///
    /// If a frame has the key of the one before it on the connection, it costs one atomic
    /// subtraction; otherwise a lock and a look-up.
    pub fn by<G>(&self, key: G) -> KeyRateRefuseLayer<K, ByFrame<G>> {
        KeyRateRefuseLayer::new(Arc::clone(&self.buckets), ByFrame(key))
    }

    /// How many keys are remembered at this moment.
    pub fn keys(&self) -> usize {
        self.buckets.len()
    }

    /// How many keys were forgotten or not remembered, because the table was full.
    pub fn untracked(&self) -> u64 {
        self.buckets.untracked()
    }

    /// How many frames were refused.
    pub fn refused(&self) -> u64 {
        self.buckets.refused()
    }
}

impl<K> Clone for KeyRates<K> {
    /// Another handle on the same buckets.
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets) }
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for KeyRates<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRates")
            .field("rate", &self.buckets.rate)
            .field("keys", &self.keys())
            .finish()
    }
}

/// Limits the rate of the frames of all connections together. A connection over the rate waits.
///
/// It is the [`FrameRateLayer`](crate::FrameRateLayer) with one bucket for all: the layer, its
/// clones and all services made from them share it, full at first. A frame takes a token. While no
/// token is left the service is not ready, until its token has arrived, and the peer has to wait
/// because its socket is full. Connections receive tokens in the order in which they asked; one
/// that ends while it waits returns its token. [`refuse`](Self::refuse) makes frames over the rate
/// fail instead, so that they are answered. [`KeyRates`] gives each key a bucket of its own.
///
/// As with `FrameRateLayer`, the clock is read only when the bucket is empty: over time the rate is
/// exact, but after a pause up to twice the burst may come at once. A frame costs one atomic
/// subtraction.
///
/// It goes around frames only.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use ropewalk_middleware::KeyRateLayer;
/// use tower::{ServiceBuilder, service_fn};
///
/// // 1000 frames a second from all connections together.
/// let echo = ServiceBuilder::new()
///     .layer(KeyRateLayer::new(1000, Duration::from_secs(1)))
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct KeyRateLayer<K = ()> {
    buckets: Arc<KeyBuckets<K>>,
    key: K,
}

impl KeyRateLayer {
    /// At most `frames` in each `per`, and as many at once, from all connections together.
    ///
    /// # Panics
    ///
    /// Panics if either is zero.
    pub fn new(frames: u32, per: Duration) -> Self {
        KeyRates::new(frames, per).of(())
    }
}

impl<K: Clone + Eq + Hash> KeyRateLayer<K> {
    /// Sets the size of each bucket: how much may come at once. The buckets are new, not shared
    /// with earlier clones.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    pub fn burst(self, burst: u32) -> Self {
        KeyRates { buckets: self.buckets }.burst(burst).of(self.key)
    }

    /// Frames over the rate fail with [`RateExceeded`] instead of waiting.
    pub fn refuse(self) -> KeyRateRefuseLayer<K, OneKey<K>> {
        KeyRateRefuseLayer::new(self.buckets, OneKey(self.key))
    }

    /// The rate is that of the frames of answers, which wait, and not of the peer's frames. The
    /// bucket stays the same, so the rate is one for both if this layer is also used itself.
    pub fn answers(self) -> AnswerRateLayer<K> {
        AnswerRateLayer::new(self.buckets, self.key)
    }
}

impl<K: Clone> Clone for KeyRateLayer<K> {
    /// Another handle on the same buckets.
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets), key: self.key.clone() }
    }
}

impl<K> fmt::Debug for KeyRateLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRateLayer").field("rate", &self.buckets.rate).finish_non_exhaustive()
    }
}

impl<S, K: Clone + Eq + Hash> Layer<S> for KeyRateLayer<K> {
    type Service = KeyRate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyRate::new(inner, self.buckets.of(self.key.clone()), self.buckets.rate)
    }
}

/// A service whose frames take their tokens from a bucket that others share; made by
/// [`KeyRateLayer`].
pub struct KeyRate<S> {
    inner: S,
    bucket: Arc<KeyBucket>,
    rate: TokenRate,
    /// The token of the next frame is taken.
    taken: bool,
    /// When that token arrives, if it has not arrived yet.
    arrives: Option<Instant>,
    /// Made at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> KeyRate<S> {
    fn new(inner: S, bucket: Arc<KeyBucket>, rate: TokenRate) -> Self {
        Self { inner, bucket, rate, taken: false, arrives: None, timer: None }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Ready when the token of the next frame has arrived.
    #[cold]
    fn poll_arrives(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(cx));
        self.arrives = None;
        Poll::Ready(())
    }
}

impl<S: Clone> Clone for KeyRate<S> {
    /// Another service with the same bucket. It has no token yet.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.bucket), self.rate)
    }
}

impl<S> Drop for KeyRate<S> {
    fn drop(&mut self) {
        if self.taken {
            self.bucket.put_back(self.rate);
        }
    }
}

impl<S, F> Service<F> for KeyRate<S>
where
    S: Service<F>,
    F: Frame,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !self.taken {
            self.arrives = self.bucket.take(self.rate);
            self.taken = true;
        }
        if let Some(until) = self.arrives {
            ready!(self.poll_arrives(until, cx));
        }
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        self.taken = false;
        self.inner.call(frame)
    }
}

impl<S: fmt::Debug> fmt::Debug for KeyRate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRate")
            .field("inner", &self.inner)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}
