//! Around frames: a connection has to log in first.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pin_project::pin_project;
use ropewalk_middleware::{IntoReply, Reply};
use tower_layer::Layer;
use tower_service::Service;

/// Answers every line with `denied` until one is `login` and the password.
#[derive(Clone, Debug)]
pub struct LoginLayer {
    line: Bytes,
    /// Shared by all connections.
    denied: Arc<AtomicU64>,
}

impl LoginLayer {
    /// A layer with this password.
    pub fn new(password: &str) -> Self {
        Self { line: format!("login {password}").into(), denied: Arc::default() }
    }

    /// How many lines were denied, on all connections.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for LoginLayer {
    type Service = Login<S>;

    fn layer(&self, inner: S) -> Login<S> {
        Login { inner, layer: self.clone(), logged_in: false }
    }
}

/// A service that requires a login; made by [`LoginLayer`].
#[derive(Debug)]
pub struct Login<S> {
    inner: S,
    layer: LoginLayer,
    /// Whether this connection has logged in.
    logged_in: bool,
}

/// A clone is for another connection, which has not logged in.
impl<S: Clone> Clone for Login<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone(), logged_in: false }
    }
}

impl<S> Service<Bytes> for Login<S>
where
    S: Service<Bytes, Response: IntoReply<Frame = Bytes>>,
{
    type Response = Reply<Bytes>;
    type Error = S::Error;
    type Future = LoginFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Until the login the layer answers by itself, and the inner service would reserve a permit that is not used.
        if self.logged_in { self.inner.poll_ready(cx) } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, line: Bytes) -> Self::Future {
        if self.logged_in {
            return LoginFuture { call: Some(self.inner.call(line)), answer: "" };
        }
        self.logged_in = line == self.layer.line;
        if !self.logged_in {
            self.layer.denied.fetch_add(1, Ordering::Relaxed);
        }
        LoginFuture { call: None, answer: if self.logged_in { "welcome" } else { "denied" } }
    }
}

/// A call of the inner service, or the layer's own answer.
#[pin_project]
#[derive(Debug)]
pub struct LoginFuture<F> {
    #[pin]
    call: Option<F>,
    answer: &'static str,
}

impl<F, R, E> Future for LoginFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoReply<Frame = Bytes>,
{
    type Output = Result<Reply<Bytes>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match this.call.as_pin_mut() {
            Some(call) => ready!(call.poll(cx)).map(IntoReply::into_reply),
            None => Ok(Reply::one(Bytes::from_static(this.answer.as_bytes()))),
        })
    }
}
