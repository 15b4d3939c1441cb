//! A function of `reply_fn` can't fail, so the error of its service is `Infallible`. A layer that
//! names another error does not fit; one that keeps `S::Error` does.

use std::task::{Context, Poll};

use ropewalk::{Bytes, Lines, Reply, Result, framed, reply_fn};
use tower::{Layer, Service};

struct AskLayer;

struct Ask<S>(S);

impl<S> Layer<S> for AskLayer {
    type Service = Ask<S>;

    fn layer(&self, inner: S) -> Ask<S> {
        Ask(inner)
    }
}

impl<S> Service<Bytes> for Ask<S>
where
    S: Service<Bytes, Response = Reply<Bytes>, Error = ropewalk::Error>,
{
    type Response = Reply<Bytes>;
    type Error = ropewalk::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, line: Bytes) -> S::Future {
        self.0.call(line)
    }
}

fn main() {
    framed(Lines::crlf(), reply_fn(|line: Bytes| Reply::one(line))).layer_with(|_| AskLayer);
}
