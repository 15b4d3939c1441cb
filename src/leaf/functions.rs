//! Services from functions.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::task::{Context, Poll};

use tower_service::Service;

use ropewalk_middleware::{Error, IntoReply, Result};

/// Makes a service from an async function that takes one frame.
///
/// Unlike in `tower::service_fn`, the error type is fixed, so `?` and `Ok(…)` need no annotation.
///
/// ```
/// use ropewalk::{Bytes, Lines, Reply, framed, service_fn};
///
/// framed(Lines::crlf(), service_fn(async |line: Bytes| Ok(Reply::one(line))));
/// ```
pub fn service_fn<F, I, Fut, R>(f: F) -> ServiceFn<F>
where
    F: FnMut(I) -> Fut,
    Fut: Future<Output = Result<R>> + Send,
    R: IntoReply,
{
    ServiceFn(f)
}

/// Makes a service from a plain function that takes one frame, for answers that are ready at once.
/// For an async function, or one that returns a `Result`, use [`service_fn`].
///
/// Under [`framed`](crate::framed) the function is cloned for each connection with the values it
/// captured; a captured counter counts for one connection only. State that all connections share is
/// captured in an `Arc`, or comes from a [`StateLayer`](crate::StateLayer).
///
/// ```
/// use ropewalk::{Bytes, Lines, framed, reply_fn};
///
/// framed(Lines::crlf(), reply_fn(|line: Bytes| if line == "ping" { "pong" } else { "what?" }));
/// ```
pub fn reply_fn<F, I, R>(f: F) -> ReplyFn<F>
where
    F: FnMut(I) -> R,
    R: IntoReply,
{
    ReplyFn(f)
}

/// The service that [`service_fn`] makes.
#[derive(Clone, Copy)]
#[must_use = "a service answers nothing until it is handed to a leaf"]
pub struct ServiceFn<F>(F);

/// The service that [`reply_fn`] makes.
#[derive(Clone, Copy)]
#[must_use = "a service answers nothing until it is handed to a leaf"]
pub struct ReplyFn<F>(F);

impl<F, I, Fut, R> Service<I> for ServiceFn<F>
where
    F: FnMut(I) -> Fut,
    Fut: Future<Output = Result<R>>,
    R: IntoReply,
{
    type Response = R;
    type Error = Error;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, frame: I) -> Fut {
        (self.0)(frame)
    }
}

impl<F, I, R> Service<I> for ReplyFn<F>
where
    F: FnMut(I) -> R,
    R: IntoReply,
{
    type Response = R;
    type Error = Infallible;
    type Future = Ready<Result<R, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, frame: I) -> Self::Future {
        ready(Ok((self.0)(frame)))
    }
}

impl<F> fmt::Debug for ServiceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceFn").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for ReplyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyFn").finish_non_exhaustive()
    }
}
