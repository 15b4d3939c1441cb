//! A layer that is made anew for each connection.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Connection, ConnectionInfo};

/// Makes a layer anew for each connection, with a function that receives the connection's
/// [`ConnectionInfo`]. Nothing that is made in the function is shared by two connections.
///
/// It goes around connections; the server's `Server::layer_with` adds it. For a layer around frames
/// there is `Framed::layer_with`, with the same kind of function.
///
/// The inner service is cloned for each connection, and the value that was made ready is the one
/// that is used. The readiness of the layer's service is awaited in the connection's own task:
/// while it isn't ready, the connection waits, not the accept loop.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::{ConnectionInfo, PerConnectionLayer};
/// use tower::timeout::TimeoutLayer;
///
/// // Connections from loopback may stay for a day, all others for an hour.
/// let stay = PerConnectionLayer::new(|connection: &ConnectionInfo| {
///     let local = connection.peer().ip().is_some_and(|ip| ip.is_loopback());
///     TimeoutLayer::new(Duration::from_secs(if local { 24 * 3600 } else { 3600 }))
/// });
/// # let _ = stay;
/// ```
#[derive(Clone, Copy)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct PerConnectionLayer<M> {
    make: M,
}

impl<M> PerConnectionLayer<M> {
    /// A layer that calls `make` for each connection and puts the result around the service.
    pub fn new<L>(make: M) -> Self
    where
        M: FnMut(&ConnectionInfo) -> L,
    {
        Self { make }
    }
}

impl<M> fmt::Debug for PerConnectionLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerConnectionLayer").finish_non_exhaustive()
    }
}

impl<S, M: Clone> Layer<S> for PerConnectionLayer<M> {
    type Service = PerConnection<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        PerConnection { inner, make: self.make.clone() }
    }
}

/// A service with a layer of its own for each connection; made by [`PerConnectionLayer`].
#[derive(Clone)]
pub struct PerConnection<S, M> {
    inner: S,
    make: M,
}

impl<S, M> PerConnection<S, M> {
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

impl<S, M, L> Service<Connection> for PerConnection<S, M>
where
    S: Service<Connection> + Clone,
    M: FnMut(&ConnectionInfo) -> L,
    L: Layer<S, Service: Service<Connection, Response = (), Error: From<S::Error>>>,
{
    type Response = ();
    type Error = <L::Service as Service<Connection>>::Error;
    type Future = PerConnectionFuture<L::Service>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let next = self.inner.clone();
        // The value that was made ready, with its reservation.
        let ready = mem::replace(&mut self.inner, next);
        let service = (self.make)(&connection.info()).layer(ready);
        PerConnectionFuture {
            state: PerConnectionStage::Waits { service, connection: Some(connection) },
        }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for PerConnection<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerConnection").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A connection with a layer of its own.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct PerConnectionFuture<S: Service<Connection>> {
    #[pin]
    state: PerConnectionStage<S, S::Future>,
}

#[pin_project(project = StageProjection)]
enum PerConnectionStage<S, F> {
    /// The layer's service is not ready yet.
    Waits { service: S, connection: Option<Connection> },
    /// The layer's service has been dropped by then, as in tower's `oneshot`.
    Serves(#[pin] F),
}

impl<S: Service<Connection>> Future for PerConnectionFuture<S> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StageProjection::Waits { service, connection } => {
                    ready!(service.poll_ready(cx))?;
                    let Some(connection) = connection.take() else { return Poll::Pending };
                    let future = service.call(connection);
                    state.set(PerConnectionStage::Serves(future));
                }
                StageProjection::Serves(future) => return future.poll(cx),
            }
        }
    }
}

impl<S: Service<Connection>> fmt::Debug for PerConnectionFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerConnectionFuture").finish_non_exhaustive()
    }
}
