//! Resources that start before the first accept and stop after the last connection.

use std::future::{Future, ready};
use std::pin::Pin;

use ropewalk_middleware::event::aside;

use ropewalk_middleware::Result;

/// A resource that starts and stops with a server: a file, a pool, a registration.
///
/// Plain code before and after `serve(…).await` is often simpler; a lifecycle is for a resource
/// that is passed along with the server.
///
/// ```
/// use ropewalk::server::Lifecycle;
/// use ropewalk::Result;
///
/// struct Pid(std::path::PathBuf);
///
/// impl Lifecycle for Pid {
///     async fn start(&mut self) -> Result {
///         Ok(tokio::fs::write(&self.0, std::process::id().to_string()).await?)
///     }
///     async fn stop(&mut self) -> Result {
///         Ok(tokio::fs::remove_file(&self.0).await?)
///     }
/// }
/// ```
pub trait Lifecycle: Send + 'static {
    /// Called once all endpoints are bound, before the first accept. An error ends the server; the
    /// lifecycles started before are stopped in reverse order.
    fn start(&mut self) -> impl Future<Output = Result> + Send {
        ready(Ok(()))
    }

    /// Called after the last connection has ended, in the reverse order of the starts. An error is
    /// returned after the others are stopped.
    fn stop(&mut self) -> impl Future<Output = Result> + Send {
        ready(Ok(()))
    }
}

type Boxed<'a> = Pin<Box<dyn Future<Output = Result> + Send + 'a>>;

/// The same trait, usable as a trait object.
pub(super) trait DynLifecycle: Send {
    fn start(&mut self) -> Boxed<'_>;
    fn stop(&mut self) -> Boxed<'_>;
}

impl<L: Lifecycle> DynLifecycle for L {
    fn start(&mut self) -> Boxed<'_> {
        Box::pin(Lifecycle::start(self))
    }

    fn stop(&mut self) -> Boxed<'_> {
        Box::pin(Lifecycle::stop(self))
    }
}

/// The lifecycles of one server, and how many of them are started.
#[derive(Default)]
pub(in crate::server) struct Lifecycles {
    all: Vec<Box<dyn DynLifecycle>>,
    started: usize,
}

impl Lifecycles {
    pub(in crate::server) fn push(&mut self, lifecycle: impl Lifecycle) {
        self.all.push(Box::new(lifecycle));
    }

    /// Starts all, in order; if one fails, those already started are stopped.
    pub(in crate::server) async fn start(&mut self) -> Result {
        for i in 0..self.all.len() {
            if let Err(error) = self.all[i].start().await {
                // The first error is returned; further errors of stopping are logged.
                drop(self.stop().await);
                return Err(error);
            }
            self.started = i + 1;
        }
        Ok(())
    }

    /// Stops those that were started, in reverse order; the first error is returned, the others are
    /// logged.
    pub(in crate::server) async fn stop(&mut self) -> Result {
        let mut result = Ok(());
        while self.started > 0 {
            self.started -= 1;
            if let Err(error) = self.all[self.started].stop().await {
                let text = error.to_string();
                result = result.and(Err(error));
                aside!(ERROR, error = %text, "a lifecycle did not stop cleanly");
            }
        }
        result
    }
}
