//! Frames over a rate fail.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::buckets::{KeyBucket, KeyBuckets};
use crate::{BoxError, Frame};

/// How the key of a frame is found: [`OneKey`] or [`ByFrame`]. Sealed.
pub trait FrameKey<F, K>: sealed::Sealed {
    #[doc(hidden)]
    fn of(&self, frame: &F) -> K;
}

mod sealed {
    pub trait Sealed {}
    impl<K> Sealed for super::OneKey<K> {}
    impl<G> Sealed for super::ByFrame<G> {}
}

/// All frames have the same key.
#[derive(Clone, Copy, Debug)]
pub struct OneKey<K>(pub(super) K);

/// A function finds the key of a frame.
#[derive(Clone, Copy, Debug)]
pub struct ByFrame<G>(pub(super) G);

impl<F, K: Clone> FrameKey<F, K> for OneKey<K> {
    fn of(&self, _: &F) -> K {
        self.0.clone()
    }
}

impl<F, K, G: Fn(&F) -> K> FrameKey<F, K> for ByFrame<G> {
    fn of(&self, frame: &F) -> K {
        (self.0)(frame)
    }
}

/// Limits the rate of frames that connections share, and fails those above it with
/// [`RateExceeded`]; made by [`KeyRateLayer::refuse`](super::KeyRateLayer::refuse) and
/// [`KeyRates::by`](super::KeyRates::by).
///
/// Under `framed` an error ends the connection, unless `on_error` turns it into an answer of the
/// protocol. A refused frame takes no token. A permit that the inner service has reserved for it is
/// kept for the next frame, so put a [`CallLimitLayer`](crate::CallLimitLayer) around this layer,
/// not inside of it. The error is boxed; errors of the inner service are passed on unchanged.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use ropewalk_middleware::{KeyRateLayer, RateExceeded};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ropewalk_middleware::BoxError> {
/// let mut one_a_minute = ServiceBuilder::new()
///     .layer(KeyRateLayer::new(1, Duration::from_secs(60)).refuse())
///     .service(service_fn(async |frame: Bytes| Ok::<_, std::io::Error>(frame)));
/// one_a_minute.ready().await?.call(Bytes::from("first")).await?;
/// let error = one_a_minute.ready().await?.call(Bytes::from("second")).await.unwrap_err();
/// let exceeded = error.downcast_ref::<RateExceeded>().unwrap();
/// assert!(exceeded.retry_after() <= Duration::from_secs(60));
/// # Ok(())
/// # }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct KeyRateRefuseLayer<K, X> {
    buckets: Arc<KeyBuckets<K>>,
    key: X,
}

impl<K, X> KeyRateRefuseLayer<K, X> {
    pub(super) fn new(buckets: Arc<KeyBuckets<K>>, key: X) -> Self {
        Self { buckets, key }
    }
}

impl<K: Eq + Hash, X> KeyRateRefuseLayer<K, X> {
    /// How many frames were refused.
    pub fn refused(&self) -> u64 {
        self.buckets.refused()
    }
}

impl<K, X: Clone> Clone for KeyRateRefuseLayer<K, X> {
    /// Another handle on the same buckets.
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets), key: self.key.clone() }
    }
}

impl<K, X> fmt::Debug for KeyRateRefuseLayer<K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRateRefuseLayer")
            .field("rate", &self.buckets.rate)
            .finish_non_exhaustive()
    }
}

impl<S, K, X: Clone> Layer<S> for KeyRateRefuseLayer<K, X> {
    type Service = KeyRateRefuse<S, K, X>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyRateRefuse { inner, layer: self.clone(), last: None }
    }
}

/// A service that refuses frames over a rate; made by [`KeyRateRefuseLayer`].
pub struct KeyRateRefuse<S, K, X> {
    inner: S,
    layer: KeyRateRefuseLayer<K, X>,
    /// The bucket of the frame before, because the next one mostly has the same key.
    last: Option<(K, Arc<KeyBucket>)>,
}

impl<S, K, X> KeyRateRefuse<S, K, X> {
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

impl<S: Clone, K, X: Clone> Clone for KeyRateRefuse<S, K, X> {
    /// Another service with the same buckets.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone(), last: None }
    }
}

impl<S, K: Clone + Eq + Hash, X> KeyRateRefuse<S, K, X> {
    /// Takes a token of this key's bucket, or says when one arrives.
    #[inline]
    fn take(&mut self, key: K) -> Result<(), Instant> {
        let buckets = &self.layer.buckets;
        let bucket = match &mut self.last {
            Some((last, bucket)) if *last == key => bucket,
            last => &mut last.insert((key.clone(), buckets.of(key))).1,
        };
        let Some(at) = bucket.take(buckets.rate) else { return Ok(()) };
        bucket.put_back(buckets.rate);
        buckets.note_refused();
        Err(at)
    }
}

impl<S, K, X, F> Service<F> for KeyRateRefuse<S, K, X>
where
    S: Service<F>,
    S::Error: Into<BoxError>,
    K: Clone + Eq + Hash,
    X: FrameKey<F, K>,
    F: Frame,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = KeyRateRefuseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The key of the next frame is not known yet.
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        let key = self.layer.key.of(&frame);
        KeyRateRefuseFuture(match self.take(key) {
            Ok(()) => KeyedCall::Made(self.inner.call(frame)),
            Err(at) => KeyedCall::Refused(at),
        })
    }
}

impl<S: fmt::Debug, K, X> fmt::Debug for KeyRateRefuse<S, K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRateRefuse")
            .field("inner", &self.inner)
            .field("rate", &self.layer.buckets.rate)
            .finish_non_exhaustive()
    }
}

/// A call that is made, or refused.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct KeyRateRefuseFuture<F>(#[pin] KeyedCall<F>);

#[pin_project(project = CallProj)]
#[derive(Debug)]
enum KeyedCall<F> {
    Made(#[pin] F),
    /// A token arrives then.
    Refused(Instant),
}

impl<F, T, E> Future for KeyRateRefuseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            CallProj::Made(call) => call.poll(cx).map_err(Into::into),
            CallProj::Refused(at) => {
                let retry_after = at.saturating_duration_since(Instant::now());
                Poll::Ready(Err(RateExceeded { retry_after }.into()))
            }
        }
    }
}

/// The error of a frame over the rate of a [`KeyRateRefuseLayer`]: the call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateExceeded {
    retry_after: Duration,
}

impl RateExceeded {
    /// After this time a token has arrived, if no other frame takes it.
    pub fn retry_after(&self) -> Duration {
        self.retry_after
    }
}

impl fmt::Display for RateExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too many frames: try again in {} ms", self.retry_after.as_millis())
    }
}

impl Error for RateExceeded {}
