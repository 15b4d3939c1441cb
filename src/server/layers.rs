//! Layers around connections that the builder makes by itself.

use ropewalk_middleware::{ConnectionInfo, PerConnectionLayer};
use tower_layer::Stack;

use super::Server;

impl<L> Server<L> {
    /// Adds a layer that is made anew for each connection, by a function that receives the connection's
    /// [`ConnectionInfo`]: a [`PerConnectionLayer`](crate::PerConnectionLayer). Nothing that is made in the function is
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
}
