//! Checks for layers of your own.
//!
//! [`check_layer`] is for layers around frames, [`check_connection_layer`] for layers around
//! connections. Both put the layer around a service that notes what the layer does to it, and run
//! calls that are answered, that fail, that are dropped half-way and that panic. They need no
//! runtime: they start one with a paused clock.

mod check;
mod probe;

use std::fmt;

use tokio::io::{DuplexStream, duplex};
use tower_layer::Layer;
use tower_service::Service;

pub use self::check::LayerFault;
pub use self::probe::{Probe, ProbeError, ProbeFuture};

use self::check::Check;
use crate::{Addr, Connection, Peer, Stream};

/// Checks the layer around frames that `make` makes. `frames` are those that the layer treats in
/// different ways, for example a login and a command that needs one.
///
/// ```
/// use bytes::Bytes;
/// use ropewalk_middleware::{CallDeadlineLayer, CallLimitLayer};
/// use ropewalk_middleware::testing::check_layer;
/// use std::time::Duration;
///
/// let frames = || [Bytes::from("get"), Bytes::from("set")];
/// check_layer(|| CallDeadlineLayer::new(Duration::from_secs(5)), frames()).run();
/// // All connections share its slots, by design.
/// check_layer(|| CallLimitLayer::new(1), frames()).shares_state().run();
/// ```
///
/// The layer should have the smallest limits it can have: a check makes some ten calls, so a slot
/// that is not given back is noticed under a limit of one, and not under a limit of a thousand.
pub fn check_layer<M, L, F>(make: M, frames: impl IntoIterator<Item = F>) -> LayerCheck<M, F>
where
    M: Fn() -> L,
    L: Layer<Probe<F, F>, Service: Service<F, Response: fmt::Debug, Error: fmt::Debug> + Clone>,
    F: Clone + Send + Sync + 'static,
{
    LayerCheck { make, frames: frames.into_iter().collect(), shares: false }
}

/// A check that has not run yet: see [`check_layer`].
#[must_use = "nothing is checked until `run` or `faults` is called"]
pub struct LayerCheck<M, F> {
    make: M,
    frames: Vec<F>,
    shares: bool,
}

impl<M, F> LayerCheck<M, F> {
    /// Declares that the connections share a state of the layer, as under a limit or a rate for all
    /// of them. Without this, a connection must not be affected by another one.
    pub fn shares_state(mut self) -> Self {
        self.shares = true;
        self
    }

    /// Checks the layer, and panics with all faults that were found.
    ///
    /// # Panics
    ///
    /// If there is a fault, and if it is called in a runtime.
    #[track_caller]
    pub fn run<L>(self)
    where
        M: Fn() -> L,
        L: Layer<Probe<F, F>, Service: Service<F, Response: fmt::Debug, Error: fmt::Debug> + Clone>,
        F: Clone + Send + Sync + 'static,
    {
        report(&self.faults());
    }

    /// Checks the layer, and returns the faults, each once.
    ///
    /// # Panics
    ///
    /// If it is called in a runtime, and without a frame.
    pub fn faults<L>(self) -> Vec<LayerFault>
    where
        M: Fn() -> L,
        L: Layer<Probe<F, F>, Service: Service<F, Response: fmt::Debug, Error: fmt::Debug> + Clone>,
        F: Clone + Send + Sync + 'static,
    {
        let Self { make, frames, shares } = self;
        assert!(!frames.is_empty(), "a layer is checked with at least one frame");
        let new = || {
            let probe = Probe::new(|frame: F| frame);
            (make().layer(probe.clone()), probe)
        };
        let mut check = Check::new(frames.len(), |n: usize| frames[n].clone());
        check.calls(&new);
        if !shares {
            check.clones(&new);
        }
        check.faults()
    }
}

impl<M, F> fmt::Debug for LayerCheck<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerCheck").field("shares", &self.shares).finish_non_exhaustive()
    }
}

/// Checks a layer around connections, which `make` makes: the calls, and the permits. A server does
/// not clone a service of connections, so there is nothing that clones could share by mistake. The
/// peers of the connections are in memory, and have closed.
///
/// ```
/// use ropewalk_middleware::ConnectionLimitLayer;
/// use ropewalk_middleware::testing::check_connection_layer;
///
/// check_connection_layer(|| ConnectionLimitLayer::new(1));
/// ```
///
/// # Panics
///
/// With all faults that were found, and if it is called in a runtime.
#[track_caller]
pub fn check_connection_layer<M, L>(make: M)
where
    M: Fn() -> L,
    L: Layer<Probe<Connection, ()>, Service: Service<Connection, Response = (), Error: fmt::Debug>>,
{
    report(&connection_layer_faults(make));
}

/// The faults that [`check_connection_layer`] panics with, each once.
///
/// # Panics
///
/// If it is called in a runtime.
pub fn connection_layer_faults<M, L>(make: M) -> Vec<LayerFault>
where
    M: Fn() -> L,
    L: Layer<Probe<Connection, ()>, Service: Service<Connection, Response = (), Error: fmt::Debug>>,
{
    let new = || {
        let probe = Probe::new(drop::<Connection>);
        (make().layer(probe.clone()), probe)
    };
    let connection = |_| {
        let (stream, _peer): (DuplexStream, DuplexStream) = duplex(64);
        Connection::new(Stream::from_io(stream), Peer::new(Addr::Memory))
    };
    let mut check = Check::new(1, connection);
    check.calls(&new);
    check.faults()
}

#[track_caller]
fn report(faults: &[LayerFault]) {
    let texts: Vec<String> = faults.iter().map(|fault| format!("- {fault}")).collect();
    assert!(faults.is_empty(), "the layer has faults:\n{}", texts.join("\n"));
}
