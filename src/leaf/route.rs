//! Several services on one endpoint: the one that serves a connection is chosen when it has come.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use ropewalk_middleware::{Connection, ConnectionInfo};
use tower_service::Service;

/// Makes a service of connections that chooses one of several services for each connection: the
/// first whose condition is true, and `otherwise` if no condition is.
///
/// By the name that a TLS client asks for, and by the protocol that was agreed on:
///
/// ```no_run
/// use ropewalk::leaf::route;
/// use ropewalk::{Bytes, ConnectionInfo, Lines, Result, Server, Session, framed, reply_fn, session};
///
/// async fn admin(mut s: Session<Lines>) -> Result {
///     s.feed("all is well")
/// }
///
/// fn is_for_admin(connection: &ConnectionInfo) -> bool {
///     connection.tls().and_then(|tls| tls.server_name()) == Some("admin.example")
/// }
///
/// fn speaks_echo(connection: &ConnectionInfo) -> bool {
///     connection.tls().and_then(|tls| tls.alpn()) == Some(b"echo/1")
/// }
///
/// # async fn doc() -> Result {
/// let echo = framed(Lines::lf(), reply_fn(|line: Bytes| line));
/// let shout = framed(Lines::lf(), reply_fn(|line: Bytes| line.to_ascii_uppercase()));
/// let service = route(shout)
///     .when(is_for_admin, session(Lines::lf(), admin))
///     .when(speaks_echo, echo);
/// Server::new()
///     .listen("tls:8007?certs=/etc/certs&alpn=echo/1,shout/1")
///     .serve(service)
///     .await
/// # }
/// ```
///
/// By the first bytes that a peer sends, on an endpoint that
/// [recognizes](crate::Endpoint::recognize) them: `connection.peer().recognized()`. By the
/// endpoint: not by this, but by [`Server::serve_on`](crate::Server::serve_on), which leaves
/// connections of a service that isn't ready in the backlog.
///
/// A server can't know before it accepts a connection which service will be chosen. So a route is
/// always ready, and a connection waits in its own task until a clone of its service is ready: a
/// limit around one of the services delays its own connections only, and each that waits counts as
/// an open connection of the server. Layers around the route are around all of its services.
///
/// The future of a connection is as large as that of the largest service.
pub fn route<S>(otherwise: S) -> Route<NoRules, S> {
    Route { rules: NoRules, otherwise }
}

/// A service of connections made by [`route`].
#[derive(Clone)]
pub struct Route<R, S> {
    rules: R,
    otherwise: S,
}

impl<R, S> Route<R, S> {
    /// Adds a service for the connections for which `condition` returns true, and no condition
    /// before it. It is called in the accept loop, so it must not block.
    pub fn when<P, A>(self, condition: P, service: A) -> Route<When<R, P, A>, S>
    where
        P: FnMut(&ConnectionInfo) -> bool,
        A: Service<Connection, Response = ()> + Clone,
    {
        let Self { rules, otherwise } = self;
        Route { rules: When { before: rules, condition, service }, otherwise }
    }
}

impl<R, S> Service<Connection> for Route<R, S>
where
    R: Rules<S::Error>,
    S: Service<Connection, Response = ()> + Clone,
{
    type Response = ();
    type Error = S::Error;
    type Future = RouteFuture<R::Future, WhenReady<S>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let info = connection.info();
        match self.rules.choose(&info, connection) {
            Ok(chosen) => RouteFuture::Earlier(chosen),
            Err(connection) => RouteFuture::Here(WhenReady::new(&self.otherwise, connection)),
        }
    }
}

impl<R, S> fmt::Debug for Route<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// The rules of a [`Route`] that has none yet.
#[derive(Clone, Copy, Debug)]
pub struct NoRules;

/// A rule of a [`Route`], and those before it.
#[derive(Clone)]
pub struct When<R, P, A> {
    before: R,
    condition: P,
    service: A,
}

impl<R, P, A> fmt::Debug for When<R, P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("When").finish_non_exhaustive()
    }
}

/// The rules of a [`Route`]. It can't be implemented elsewhere.
pub trait Rules<E>: sealed::Choose<E> {}

impl<E, R: sealed::Choose<E>> Rules<E> for R {}

mod sealed {
    use std::future::{Future, Ready};

    use ropewalk_middleware::{Connection, ConnectionInfo};
    use tower_service::Service;

    use super::{NoRules, RouteFuture, When, WhenReady};

    #[allow(unreachable_pub)] // sealed: it can't be named outside
    pub trait Choose<E> {
        type Future: Future<Output = Result<(), E>>;

        /// Has the connection served, or returns it.
        fn choose(
            &mut self,
            info: &ConnectionInfo,
            connection: Connection,
        ) -> Result<Self::Future, Connection>;
    }

    impl<E> Choose<E> for NoRules {
        type Future = Ready<Result<(), E>>;

        fn choose(
            &mut self,
            _: &ConnectionInfo,
            connection: Connection,
        ) -> Result<Self::Future, Connection> {
            Err(connection)
        }
    }

    impl<R, P, A> Choose<A::Error> for When<R, P, A>
    where
        R: Choose<A::Error>,
        P: FnMut(&ConnectionInfo) -> bool,
        A: Service<Connection, Response = ()> + Clone,
    {
        type Future = RouteFuture<R::Future, WhenReady<A>>;

        fn choose(
            &mut self,
            info: &ConnectionInfo,
            connection: Connection,
        ) -> Result<Self::Future, Connection> {
            match self.before.choose(info, connection) {
                Ok(chosen) => Ok(RouteFuture::Earlier(chosen)),
                Err(connection) if (self.condition)(info) => {
                    Ok(RouteFuture::Here(WhenReady::new(&self.service, connection)))
                }
                Err(connection) => Err(connection),
            }
        }
    }
}

/// The future of a [`Route`].
#[pin_project(project = RouteProjection)]
#[must_use = "futures do nothing unless polled"]
pub enum RouteFuture<A, B> {
    /// That of an earlier rule.
    Earlier(#[pin] A),
    /// That of this rule.
    Here(#[pin] B),
}

impl<A, B, E> Future for RouteFuture<A, B>
where
    A: Future<Output = Result<(), E>>,
    B: Future<Output = Result<(), E>>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            RouteProjection::Earlier(future) => future.poll(cx),
            RouteProjection::Here(future) => future.poll(cx),
        }
    }
}

impl<A, B> fmt::Debug for RouteFuture<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture").finish_non_exhaustive()
    }
}

/// A connection and a clone of its service, which is called when it is ready.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct WhenReady<S: Service<Connection>>(#[pin] ReadyStage<S, S::Future>);

#[pin_project(project = ReadyStageProjection)]
enum ReadyStage<S, F> {
    /// The connection is there until the service is called.
    Waits(S, Option<Connection>),
    Runs(#[pin] F),
}

impl<S: Service<Connection> + Clone> WhenReady<S> {
    fn new(service: &S, connection: Connection) -> Self {
        Self(ReadyStage::Waits(service.clone(), Some(connection)))
    }
}

impl<S: Service<Connection>> Future for WhenReady<S> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().0;
        loop {
            let future = match stage.as_mut().project() {
                ReadyStageProjection::Runs(future) => return future.poll(cx),
                ReadyStageProjection::Waits(service, connection) => {
                    ready!(service.poll_ready(cx))?;
                    match connection.take() {
                        Some(connection) => service.call(connection),
                        // Polled again after an error.
                        None => return Poll::Pending,
                    }
                }
            };
            stage.set(ReadyStage::Runs(future));
        }
    }
}

impl<S: Service<Connection>> fmt::Debug for WhenReady<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhenReady").finish_non_exhaustive()
    }
}
