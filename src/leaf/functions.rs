//! Services from functions.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::task::{Context, Poll};

use tower_service::Service;

use crate::error::{Error, Result};
use crate::reply::IntoReply;

/// A service from an async function of one frame.
///
/// Unlike `tower::service_fn` its error type is fixed, so that `?` and `Ok(…)` need no annotation.
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

/// A service from a plain function of one frame, for answers that need no waiting. An async function, or one that returns
/// a `Result`, goes into [`service_fn`].
///
/// Under [`framed`](crate::framed) the function is cloned for each connection, and with it what it captured: a counter in
/// it counts for one connection. What all share is captured in an `Arc`, or comes from a
/// [`StateLayer`](crate::StateLayer).
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

/// See [`service_fn`].
#[derive(Clone, Copy)]
#[must_use = "a service answers nothing until it is handed to a leaf"]
pub struct ServiceFn<F>(F);

/// See [`reply_fn`].
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
