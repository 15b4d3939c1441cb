//! The handle on a server, which queries and controls it.

#[cfg(feature = "rustls")]
use std::collections::BTreeMap;
#[cfg(feature = "rustls")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::{Addr, ConnectionInfo, Result};
use tokio::runtime::Handle as Runtime;

use super::books::counts::Counts;
use super::books::shared::{Phase, Shared};
use super::budget::MemoryUse;
use super::drain::report::DrainReport;
use super::drain::these::drain_these;
use super::restart::RestartError;
use crate::listener::PreambleCounts;

/// A handle on a server. It is cheap to clone, and usable from any task, before, while and after
/// the server runs.
///
/// ```
/// # use ropewalk::{RawBytes, Server, framed, reply_fn};
/// # use std::time::Duration;
/// # async fn doc() -> ropewalk::Result {
/// let server = Server::new()
///     .listen("tcp:127.0.0.1:0")
///     .serve(framed(RawBytes, reply_fn(|b: ropewalk::Bytes| b)))
///     .bind()
///     .await?;
/// let handle = server.handle();
/// println!("listening on {}", handle.addresses()[0]);
/// tokio::spawn(async move {
///     tokio::time::sleep(Duration::from_secs(3600)).await;
///     handle.drain(Duration::from_secs(30));
/// });
/// server.await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Shared>);

impl Handle {
    /// The bound addresses, in the order of `listen`, with the ports that the system chose; empty
    /// until the server is bound. An endpoint that was removed, also before a hot restart, keeps
    /// its place and the address it had; those that were added are in [`Handle::endpoints`] only.
    pub fn addresses(&self) -> &[Addr] {
        self.0.addresses.get().map_or(&[], Vec::as_slice)
    }

    /// The counters, all taken at one moment.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }

    /// The connections that are open now. Each is a handle that outlives its connection.
    ///
    /// ```
    /// # fn doc(handle: &ropewalk::Handle) {
    /// for connection in handle.connections() {
    ///     println!("{} for {:?}: {} bytes", connection.peer(), connection.age(), connection.stats().bytes_in());
    /// }
    /// # }
    /// ```
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.connections_where(|_| true)
    }

    /// The open connections for which `wanted` returns true. It is called once for each, while no
    /// lock is held.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn doc(handle: &ropewalk::Handle) {
    /// let idle = handle.connections_where(|connection| connection.stats().idle() > Duration::from_secs(3600));
    /// idle.iter().for_each(ropewalk::ConnectionInfo::abort);
    /// # }
    /// ```
    pub fn connections_where(
        &self,
        wanted: impl FnMut(&ConnectionInfo) -> bool,
    ) -> Vec<ConnectionInfo> {
        self.0.registry.connections(wanted)
    }

    /// Drains these connections: they answer the frames they have received and close; those still
    /// open after `within` are aborted. A deadline that was set before and is
    /// earlier stands. One task keeps the deadlines of all connections.
    /// [`ConnectionInfo::drain`] does the same for one connection without a deadline,
    /// [`ConnectionInfo::abort`] aborts it at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn doc(handle: &ropewalk::Handle) {
    /// let of_the_old_endpoint = handle.connections_where(|connection| connection.listener() == 1);
    /// handle.drain_these(&of_the_old_endpoint, Duration::from_secs(30));
    /// # }
    /// ```
    ///
    /// Connections of other servers drain as well, without a deadline.
    pub fn drain_these(&self, connections: &[ConnectionInfo], within: Duration) {
        drain_these(&self.0, connections, within);
    }

    /// The counters of preambles: the TLS handshakes and PROXY headers before connections begin.
    pub fn preambles(&self) -> PreambleCounts {
        self.0.preambles.counts()
    }

    /// The most preambles under way at once.
    pub fn max_preambles(&self) -> usize {
        self.0.preambles.max()
    }

    /// How much memory the buffers of the connections use, and how much they may use: see
    /// [`Server::memory_budget`](crate::Server::memory_budget).
    pub fn memory(&self) -> MemoryUse {
        self.0.memory.in_use()
    }

    /// The most connections open at once.
    pub fn max_connections(&self) -> usize {
        self.0.max()
    }

    /// Changes the most connections open at once. Open connections stay, even above a lower limit;
    /// a higher limit takes effect at once.
    pub fn set_max_connections(&self, max: usize) {
        self.0.set_max(max);
    }

    /// Reads the certificates of the server's endpoints again (and those of `Server::reload_tls`),
    /// and the resources of [`Server::reload`](crate::Server::reload). Later handshakes use the new
    /// certificates; open connections are not affected. If one of them can't be read, none of them
    /// changes.
    ///
    /// It is done on the server's runtime while the server runs, and on the caller's before and
    /// after.
    ///
    /// Cancel safe: if it is dropped early, the reload still completes.
    ///
    /// # Errors
    ///
    /// The first error of reading: a `TlsError`, which names the file and the problem, or that of a
    /// resource; also when all together are not read within 60 s. If a resource panics when its new
    /// state is set, all others are set. The error is logged as well.
    pub async fn reload(&self) -> Result {
        let own = self.0.runtime.get().filter(|_| *self.0.phase.borrow() != Phase::Ended);
        let runtime = match own {
            Some(own) => own.clone(),
            None => Runtime::try_current()?,
        };
        self.0.reloads.reload(&runtime).await
    }

    /// The files whose certificates the server's endpoints use, and [`Server::reload_tls`]'s, with
    /// the time since the beginning of 1970, in UTC, at which the first certificate of each expires.
    /// Certificates that are not in files are not among them. It blocks on nothing.
    ///
    /// [`Server::reload_tls`]: crate::Server::reload_tls
    #[cfg(feature = "rustls")]
    pub fn certificate_expiries(&self) -> BTreeMap<PathBuf, Duration> {
        self.0.reloads.expiries()
    }

    /// Drains the server: closes all listeners and lets connections answer the frames they have
    /// received; connections left after `within` are aborted. Connections in the backlog are
    /// accepted before the listeners close, and served as soon as there is a slot for them. A
    /// second call changes the deadline.
    pub fn drain(&self, within: Duration) {
        self.0.begin_drain(within);
    }

    /// Stops accepting and aborts every connection now.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Restarts the server as described at [`Server::hot_restart`](crate::Server::hot_restart): a
    /// new process takes over the listening sockets, and when it is ready this one drains, as on
    /// SIGTERM. Returns the process ID of the new process then. Several calls at once cause one
    /// restart.
    ///
    /// # Errors
    ///
    /// Any failure before the new process is ready; this server goes on, and can be restarted
    /// again.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped early, the restart goes on.
    pub async fn restart(&self) -> Result<u32, RestartError> {
        self.0.restart().await
    }

    /// How the connections ended from the moment the server was told to end: how many were cut
    /// short, and for which reasons. `None` until the server has ended, and for a server whose
    /// future was dropped.
    ///
    /// ```
    /// # use ropewalk::{RawBytes, Server, framed, reply_fn};
    /// use std::process::ExitCode;
    ///
    /// # async fn doc() -> ropewalk::Result<ExitCode> {
    /// let server = Server::new().listen("tcp:127.0.0.1:0").signals().serve(framed(RawBytes, reply_fn(|b: ropewalk::Bytes| b)));
    /// let handle = server.handle();
    /// server.await?;
    /// let cut = handle.drain_report().map_or(0, |report| report.cut());
    /// # Ok(
    /// if cut == 0 { ExitCode::SUCCESS } else { ExitCode::from(75) }
    /// # )
    /// # }
    /// ```
    pub fn drain_report(&self) -> Option<DrainReport> {
        self.0.outcome.report().cloned()
    }

    /// How often a thread that serves connections stood still for a second, because a handler
    /// blocks it or computes without a pause; all other connections of that thread wait meanwhile.
    /// Each time is logged as a warning as well. Not counted under a paused clock, nor on targets
    /// without 64-bit atomics.
    pub fn stalls(&self) -> u64 {
        self.0.incidents.stalls()
    }

    /// Whether the server was told to drain or to stop, or has ended.
    pub fn is_draining(&self) -> bool {
        *self.0.phase.borrow() != Phase::Running
    }

    /// Waits until the server has ended: its last connection is closed and its lifecycles are
    /// stopped. Cancel safe.
    pub async fn ended(&self) {
        // The sender is in the same allocation as this handle's state, so it is never closed.
        drop(self.0.phase.subscribe().wait_for(|phase| *phase == Phase::Ended).await);
    }
}
