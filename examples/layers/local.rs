//! Around connections: only peers of this machine are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use ropewalk_middleware::limit::MaybeRefused;
use ropewalk_middleware::{Connection, Refuse};
use tower_layer::Layer;
use tower_service::Service;

/// Refuses peers of other machines with a text.
#[derive(Clone, Debug)]
pub struct LocalLayer {
    refuse: Refuse,
    refused: Arc<AtomicU64>,
}

impl LocalLayer {
    /// A layer that refuses with this text.
    pub fn new(text: &'static str) -> Self {
        Self { refuse: Refuse::with(text), refused: Arc::default() }
    }

    /// How many connections were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for LocalLayer {
    type Service = Local<S>;

    fn layer(&self, inner: S) -> Local<S> {
        Local { inner, layer: self.clone() }
    }
}

/// A service for peers of this machine; made by [`LocalLayer`].
#[derive(Clone, Debug)]
pub struct Local<S> {
    inner: S,
    layer: LocalLayer,
}

impl<S: Service<Connection, Response = ()>> Service<Connection> for Local<S> {
    type Response = ();
    type Error = S::Error;
    type Future = MaybeRefused<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    /// Runs in the accept loop, so it must not block: the work is done by the future, in the connection's own task.
    fn call(&mut self, connection: Connection) -> Self::Future {
        if connection.peer().ip().is_none_or(|ip| ip.is_loopback()) {
            return self.layer.refuse.serve(self.inner.call(connection));
        }
        self.layer.refused.fetch_add(1, Ordering::Relaxed);
        self.layer.refuse.refuse(connection)
    }
}
