//! The service of connections that a server takes.

use std::future::Future;
use std::task::{Context, Poll};

use ropewalk_middleware::{BoxError, Connection};
use tower_service::Service;

/// A tower service of connections: a `Service<Connection, Response = ()>` that is called once for each connection.
///
/// An alias for the bounds of [`Server::serve`](crate::Server::serve). It is implemented for every service that meets
/// them, and can't be implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service of connections",
    label = "this can't serve connections",
    note = "if there is an error above of the service inside, or of its answers, mend that first",
    note = "wrap a service of frames as `framed(codec, service)` and an async function as `session(codec, f)`",
    note = "`WithState<T>` is a `session_with` function that takes a `T`: add `.layer(StateLayer::new(state))`, with a \
            state of just that type",
    note = "a layer for frames, such as `FrameLogLayer`, goes around the service inside `framed`",
    note = "service and future must be `Send + 'static`, and the response `()`"
)]
pub trait ConnectionService: sealed::Serves + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<S> ConnectionService for S where
    S: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
}

mod sealed {
    use super::{BoxError, Connection, Context, Future, Poll, Service};

    /// The methods that the accept loop calls. They are not in the public trait, where they could be mistaken for those
    /// of `Service`.
    #[allow(unreachable_pub)] // sealed: it can't be named outside
    pub trait Serves {
        type Error: Into<BoxError>;
        type Future: Future<Output = Result<(), Self::Error>> + Send + 'static;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

        fn call(&mut self, connection: Connection) -> Self::Future;
    }

    #[diagnostic::do_not_recommend]
    impl<S> Serves for S
    where
        S: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send + 'static>,
    {
        type Error = S::Error;
        type Future = S::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            Service::poll_ready(self, cx)
        }

        fn call(&mut self, connection: Connection) -> S::Future {
            Service::call(self, connection)
        }
    }
}
