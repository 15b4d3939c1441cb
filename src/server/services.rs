//! More methods of the builder: layers for each connection, resources to reload, further services.

use ropewalk_middleware::{ConnectionInfo, PerConnectionLayer};
use tower_layer::{Layer, Stack};

use super::run::reload::Reload;
use super::run::serve::Planned;
use super::{ConnectionService, Server};
use crate::endpoint::{Endpoint, EndpointError};

impl<L> Server<L> {
    /// Adds a layer that is made anew for each connection, by a function that receives the
    /// connection's
    /// [`ConnectionInfo`]: a [`PerConnectionLayer`]. Nothing that is made in the function is
    /// shared by two connections.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ropewalk::{ReadDeadlineLayer, Server};
    ///
    /// // Peers on this machine may be idle.
    /// Server::new().listen("tcp:127.0.0.1:8007").layer_with(|connection| {
    ///     let local = connection.peer().ip().is_some_and(|ip| ip.is_loopback());
    ///     let layer = ReadDeadlineLayer::new();
    ///     if local { layer.idle(None) } else { layer }
    /// });
    /// ```
    pub fn layer_with<F, N>(self, layer: F) -> Server<Stack<PerConnectionLayer<F>, L>>
    where
        F: FnMut(&ConnectionInfo) -> N + Clone,
    {
        self.layer(PerConnectionLayer::new(layer))
    }

    /// Adds a resource that is read again by [`Handle::reload`](crate::Handle::reload) and, with
    /// [`signals`](Self::signals), by SIGHUP, together with the certificates of the server: all of
    /// them, or none if one can't be read. Resources are read in the order of these calls.
    pub fn reload(self, resource: impl Reload) -> Self {
        self.reloads.add_resource(resource);
        self
    }

    /// Adds a service with endpoints of its own, beside the one of [`serve`](Self::serve). It can
    /// be called any number of times; a server that has only such services ends with
    /// [`run`](Self::run).
    ///
    /// All services have one drain, one handle and one limit of connections. The layers that were
    /// added before this call are around the service: a
    /// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer) among them counts the connections of
    /// all services that it is around. Layers of this service alone go around it in the call. Its
    /// name is for [`Handle::endpoints`](crate::Handle::endpoints).
    ///
    /// ```no_run
    /// use ropewalk::{Bytes, Lines, LogLayer, Result, Server, Session, framed, reply_fn, session};
    ///
    /// async fn admin(mut s: Session<Lines>) -> Result {
    ///     s.feed("all is well")
    /// }
    ///
    /// # async fn doc() -> Result {
    /// Server::new()
    ///     .layer(LogLayer::new())
    ///     .serve_on("admin", ["unix:/run/admin.sock?mode=600"], session(Lines::lf(), admin))
    ///     .listen("tcp:0.0.0.0:8007")
    ///     .serve(framed(Lines::crlf(), reply_fn(|line: Bytes| line)))
    ///     .await
    /// # }
    /// ```
    pub fn serve_on<E, S>(
        mut self,
        name: &str,
        endpoints: impl IntoIterator<Item = E>,
        service: S,
    ) -> Self
    where
        E: TryInto<Endpoint, Error: Into<EndpointError>>,
        L: Layer<S>,
        L::Service: ConnectionService,
    {
        let number = self.services.len();
        self.services.push(Planned::new(name, self.layer.layer(service)));
        for endpoint in endpoints {
            self.add(endpoint, Some(number));
        }
        self
    }

    pub(super) fn add<E>(&mut self, endpoint: E, service: Option<usize>)
    where
        E: TryInto<Endpoint, Error: Into<EndpointError>>,
    {
        self.endpoints.push(endpoint.try_into().map_err(Into::into));
        self.of.push(service);
    }
}
