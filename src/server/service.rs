//! What a server serves with.

use std::future::Future;
use std::task::{Context, Poll};

use ropewalk_middleware::Connection;
use tower_service::Service;

use crate::error::BoxError;

/// A tower service of connections: `Service<Connection, Response = ()>`, called once for each.
///
/// An alias for the bounds [`Server::serve`](crate::Server::serve) has; it is implemented for every service that meets
/// them, and cannot be implemented otherwise.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service of connections",
    label = "this can't serve connections",
    note = "wrap a service of frames as `framed(codec, service)` and an async function as `session(codec, f)`",
    note = "`WithState<T>` is a `session_with` function that takes a `T`: add `.layer(StateLayer::new(state))`, with a \
            state of just that type",
    note = "a layer for frames, such as `FrameLogLayer`, goes around the service inside `framed`",
    note = "service and future must be `Send + 'static`, and the response `()`"
)]
pub trait ConnectionService: sealed::Sealed + Send + 'static {
    /// What it fails with.
    type Error: Into<BoxError>;
    /// One connection, until it ends.
    type Future: Future<Output = Result<(), Self::Error>> + Send + 'static;

    /// Whether it takes another connection; while it does not, none is accepted.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// Takes a connection.
    fn call(&mut self, connection: Connection) -> Self::Future;
}

#[diagnostic::do_not_recommend]
impl<S> ConnectionService for S
where
    S: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send + 'static> + Send + 'static,
{
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(self, cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        Service::call(self, connection)
    }
}

mod sealed {
    use super::{Connection, Service};

    #[allow(unnameable_types)] // sealed: nobody outside names it
    pub trait Sealed {}

    #[diagnostic::do_not_recommend]
    impl<S: Service<Connection>> Sealed for S {}
}
