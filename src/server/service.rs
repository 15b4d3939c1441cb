//! `ConnectionService`, the service that a server takes.

use ropewalk_middleware::{BoxError, Connection};
use tower_service::Service;

/// A tower service of connections: a `Service<Connection, Response = ()>` that is called once for
/// each connection.
///
/// An alias for the bounds of [`Server::serve`](crate::Server::serve). It is implemented for every
/// service that meets them, and can't be implemented by hand. Use it as the return type of a
/// function whose caller adds layers or serves:
///
/// ```
/// use ropewalk::{Bytes, ConnectionService, Error, Lines, LogLayer, Server, framed, reply_fn};
/// use tower::Layer;
///
/// fn echo() -> impl ConnectionService<Error = Error> {
///     framed(Lines::crlf(), reply_fn(|line: Bytes| line))
/// }
///
/// // `LogLayer` logs the error, so the type of the error must be known to be printable.
/// fn logged<S: ConnectionService<Error = Error>>() -> Server<impl Layer<S, Service: ConnectionService>> {
///     Server::new().layer(LogLayer::new())
/// }
///
/// let server = logged().listen("tcp:127.0.0.1:8007").serve(echo());
/// # let _ = server;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connection service",
    label = "this can't serve connections",
    note = "if an error about the inner service or its response type appears above, fix that first",
    note = "wrap a service of frames as `framed(codec, service)` and an async function as `session(codec, f)`",
    note = "`WithState<T>` is a `session_with` function that takes a `T`: add `.layer(StateLayer::new(state))`, with a \
            state of just that type",
    note = "a layer for frames, such as `FrameLogLayer`, goes around the service inside `framed`, or that of `Session::drive`",
    note = "service and future must be `Send + 'static`, and the response `()`"
)]
pub trait ConnectionService:
    Service<Connection, Response = (), Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
}

#[diagnostic::do_not_recommend]
impl<S> ConnectionService for S where
    S: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send + 'static>
        + Send
        + 'static
{
}
