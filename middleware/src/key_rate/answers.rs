//! Frames of answers wait at a rate.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::buckets::{KeyBucket, KeyBuckets};
use crate::rate::TokenRate;
use crate::reply::Body;
use crate::{Frame, IntoReply, Reply, Result};

/// Limits the rate of the frames of answers. Frames above the rate wait; made by
/// [`KeyRateLayer::answers`](super::KeyRateLayer::answers).
///
/// Each frame of an answer takes a token, whether the answer is one frame, several or a stream. So a
/// short request for a long listing can't take more than its share of the server or the network. An
/// answer of no frame takes no token. Answers receive tokens in the order in which they are ready;
/// one that is dropped while it waits returns its token. Other calls of a connection go on
/// meanwhile, as far as the leaf makes several at once.
///
/// The bucket is that of the layer it was made from:
///
/// * `KeyRateLayer::new(100, second).answers()` has one rate for all connections together;
/// * `rates.of(key).answers()`, of [`KeyRates`](super::KeyRates), has one for each key, and frames
///   of peers that are limited by the same `KeyRates` take from the same bucket;
/// * the first one, made in [`Framed::layer_with`](https://docs.rs/ropewalk), has one for each
///   connection.
///
/// An answer costs a reference count and an atomic subtraction, and a frame of a stream another one.
/// An answer that waits costs a box and a timer. Put it around layers such as a
/// [`CallLimitLayer`](crate::CallLimitLayer) or a [`CallDeadlineLayer`](crate::CallDeadlineLayer):
/// the call is over when its answer begins to wait. Frames that a session sends, and those that are
/// pushed through an outbox, are no answers; [`BandwidthLayer`](crate::BandwidthLayer) limits all
/// bytes.
///
/// It goes around frames only, inside `framed` or `Session::drive`, and its answers are [`Reply`]s.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use ropewalk_middleware::{KeyRateLayer, Reply};
/// use tower::{ServiceBuilder, service_fn};
///
/// // All connections together receive 1000 frames a second.
/// let list = ServiceBuilder::new()
///     .layer(KeyRateLayer::new(1000, Duration::from_secs(1)).answers())
///     .service(service_fn(async |_: Bytes| Ok::<_, std::io::Error>(Reply::many(["one", "two", "."]))));
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct AnswerRateLayer<K = ()> {
    buckets: Arc<KeyBuckets<K>>,
    key: K,
}

impl<K> AnswerRateLayer<K> {
    pub(super) fn new(buckets: Arc<KeyBuckets<K>>, key: K) -> Self {
        Self { buckets, key }
    }
}

impl<K: Clone> Clone for AnswerRateLayer<K> {
    /// Another handle on the same buckets.
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets), key: self.key.clone() }
    }
}

impl<K> fmt::Debug for AnswerRateLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerRateLayer").field("rate", &self.buckets.rate).finish_non_exhaustive()
    }
}

impl<S, K: Clone + Eq + Hash> Layer<S> for AnswerRateLayer<K> {
    type Service = AnswerRate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let tokens = Tokens { bucket: self.buckets.of(self.key.clone()), rate: self.buckets.rate };
        AnswerRate { inner, tokens }
    }
}

/// A service whose answers are limited to a rate; made by [`AnswerRateLayer`].
#[derive(Clone, Debug)]
pub struct AnswerRate<S> {
    inner: S,
    tokens: Tokens,
}

impl<S> AnswerRate<S> {
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

impl<S, F> Service<F> for AnswerRate<S>
where
    S: Service<F, Response: IntoReply<Frame: Send + 'static>>,
    F: Frame,
{
    type Response = Reply<<S::Response as IntoReply>::Frame>;
    type Error = S::Error;
    type Future = AnswerRateFuture<S::Future, <S::Response as IntoReply>::Frame>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, frame: F) -> Self::Future {
        AnswerRateFuture {
            stage: AnswerStage::Calls(self.inner.call(frame)),
            tokens: self.tokens.clone(),
        }
    }
}

/// Where tokens come from.
#[derive(Clone, Debug)]
struct Tokens {
    bucket: Arc<KeyBucket>,
    rate: TokenRate,
}

impl Tokens {
    /// Takes a token. `None` if it was there.
    #[inline]
    fn take(&self) -> Option<AwaitedToken> {
        let at = self.bucket.take(self.rate)?;
        let timer = Box::pin(sleep_until(at));
        let bucket = Some(Arc::clone(&self.bucket));
        Some(AwaitedToken { bucket, rate: self.rate, timer })
    }
}

/// A token that is taken and has not arrived. It is returned if this is dropped before.
#[derive(Debug)]
struct AwaitedToken {
    bucket: Option<Arc<KeyBucket>>,
    rate: TokenRate,
    timer: Pin<Box<Sleep>>,
}

impl AwaitedToken {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.timer.as_mut().poll(cx));
        self.bucket = None;
        Poll::Ready(())
    }
}

impl Drop for AwaitedToken {
    fn drop(&mut self) {
        if let Some(bucket) = &self.bucket {
            bucket.put_back(self.rate);
        }
    }
}

/// An answer that waits for the token of its first frame.
#[derive(Debug)]
struct LateAnswer<T> {
    token: AwaitedToken,
    reply: Option<Reply<T>>,
}

/// A call whose answer is limited to a rate.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct AnswerRateFuture<F, T> {
    #[pin]
    stage: AnswerStage<F, T>,
    tokens: Tokens,
}

#[pin_project(project = AnswerStageProjection)]
#[derive(Debug)]
enum AnswerStage<F, T> {
    Calls(#[pin] F),
    /// Boxed, because few answers wait. The call has been dropped.
    Waits(Box<LateAnswer<T>>),
}

impl<F, A, E> Future for AnswerRateFuture<F, A::Frame>
where
    F: Future<Output = std::result::Result<A, E>>,
    A: IntoReply<Frame: Send + 'static>,
{
    type Output = std::result::Result<Reply<A::Frame>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let reply = match this.stage.as_mut().project() {
            AnswerStageProjection::Calls(call) => match ready!(call.poll(cx)) {
                Ok(answer) => answer.into_reply(),
                Err(error) => return Poll::Ready(Err(error)),
            },
            AnswerStageProjection::Waits(late) => return late.poll(cx).map(Ok),
        };
        if let Body::None = reply.body {
            return Poll::Ready(Ok(reply));
        }
        if let Body::Many(_) | Body::Stream(_) = reply.body {
            return Poll::Ready(Ok(paced(reply, this.tokens)));
        }
        let Some(token) = this.tokens.take() else { return Poll::Ready(Ok(reply)) };
        let mut late = Box::new(LateAnswer { token, reply: Some(reply) });
        // Registers the timer. It is ready if the token has arrived meanwhile.
        let polled = late.poll(cx).map(Ok);
        this.stage.set(AnswerStage::Waits(late));
        polled
    }
}

impl<T> LateAnswer<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply<T>> {
        if self.reply.is_some() {
            ready!(self.token.poll(cx));
        }
        // A future that is polled after its end waits for ever.
        self.reply.take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// An answer of several frames, each of which waits for its token; without a stream if the tokens
/// are there.
fn paced<T: Send + 'static>(reply: Reply<T>, tokens: &Tokens) -> Reply<T> {
    if let Body::Many(frames) = &reply.body
        && i64::try_from(frames.len()).is_ok_and(|frames| tokens.bucket.try_take(frames))
    {
        return reply;
    }
    let Reply { body, close } = reply;
    let paced = PacedFrames { frames: body, next: None, token: None, tokens: tokens.clone() };
    Reply { body: Body::Stream(Box::pin(paced)), close }
}

/// The frames of an answer, at a rate.
struct PacedFrames<T> {
    frames: Body<T>,
    /// A frame that waits for its token: a stream that has no frame yet takes no token.
    next: Option<T>,
    /// That token, if it was not there.
    token: Option<AwaitedToken>,
    tokens: Tokens,
}

/// No frame is pinned.
impl<T> Unpin for PacedFrames<T> {}

impl<T> Stream for PacedFrames<T> {
    type Item = Result<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.next.is_none() {
            let frame = match &mut this.frames {
                Body::None | Body::One(_) => None,
                Body::Many(frames) => frames.next(),
                Body::Stream(frames) => ready!(frames.as_mut().poll_next(cx)).transpose()?,
            };
            let Some(frame) = frame else { return Poll::Ready(None) };
            this.token = this.tokens.take();
            this.next = Some(frame);
        }
        if let Some(token) = &mut this.token {
            ready!(token.poll(cx));
            this.token = None;
        }
        Poll::Ready(this.next.take().map(Ok))
    }
}
