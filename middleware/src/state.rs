//! Shared state for a service, as Twisted keeps it in the factory.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

/// Passes a clone of `state` to the service with every request.
///
/// It turns a `Service<(T, Req)>` into a `Service<Req>`, at either level: around the connections or
/// around the frames. A service that needs state has another type than one without, so a forgotten
/// state is a compile error.
///
/// The state is cloned once for each request: put data that is not cheap to clone into an `Arc`.
/// One struct with all the state reads better than several of these layers.
///
/// ```
/// use std::convert::Infallible;
/// use std::sync::Arc;
/// use ropewalk_middleware::StateLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Infallible> {
/// let greet = service_fn(async |(greeting, name): (Arc<str>, &str)| Ok::<_, Infallible>(format!("{greeting}, {name}")));
/// let service = ServiceBuilder::new().layer(StateLayer::new(Arc::from("Hello"))).service(greet);
///
/// assert_eq!(service.oneshot("Ann").await?, "Hello, Ann");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct StateLayer<T> {
    state: T,
}

impl<T> StateLayer<T> {
    /// A layer that passes clones of `state`.
    pub fn new(state: T) -> Self {
        Self { state }
    }
}

impl<S, T: Clone> Layer<S> for StateLayer<T> {
    type Service = State<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        State { inner, state: self.state.clone() }
    }
}

/// A service that gets its state with every request; made by [`StateLayer`].
#[derive(Clone, Copy, Debug)]
pub struct State<S, T> {
    inner: S,
    state: T,
}

impl<S, T> State<S, T> {
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

impl<Req, S, T> Service<Req> for State<S, T>
where
    S: Service<(T, Req)>,
    T: Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.inner.call((self.state.clone(), request))
    }
}
