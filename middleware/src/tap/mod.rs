//! The bytes of chosen connections, recorded in a file: [`TapLayer`].

mod hex;
mod packets;
mod recording;
mod rules;
mod tapped;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use self::recording::Recording;
pub use self::recording::{TapEnd, TapStatus};
pub use self::rules::{TapFormat, TapRules};
use self::tapped::TappedConnection;
use crate::{Connection, ConnectionInfo};

/// Records the bytes of chosen connections in a file, on request, while the server runs.
///
/// [`start`](Self::start) on any clone of the layer begins a tap, which ends at its limits of bytes
/// and time, or by [`stop`](Self::stop). Nothing else begins one. Its [`TapRules`] choose
/// connections by peer, by endpoint or by sampling, among those that reach the layer after the
/// start; [`join`](Self::join) adds one that is open already. One tap runs at a time.
///
/// The bytes are those of the protocol, as the service reads and writes them: with TLS the
/// plaintext, so no keys are needed. The file is a packet capture (pcap-ng) in which each
/// connection is a TCP stream, whatever its transport, or text in hexadecimal:
/// [`TapFormat`]. Handle it like the data in it. Only the user of the process may read it (mode
/// 600), and a file that exists is never written to.
///
/// A tap never blocks a connection: a thread writes the file. If it can't keep up, at most 4 MiB
/// wait, and the rest is missing from the file; a capture says where, because its sequence numbers
/// go on. [`status`](Self::status) counts the missing records.
///
/// The layer and its clones share the tap. A connection costs a load while no tap runs, and no read
/// or write costs more than a load. A tapped connection costs a few allocations, and each of its
/// reads and writes a lock, a copy and a reading of the clock.
///
/// It goes around connections only. A connection that a layer around this one refuses is not seen.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::TapLayer;
/// use ropewalk_middleware::tap::TapRules;
///
/// # fn main() -> std::io::Result<()> {
/// let tap = TapLayer::new();
/// // `Server::new().layer(tap.clone())`, and later, while the server runs:
/// # let folder = std::env::temp_dir().join(format!("tap-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("one.pcapng");
/// let office: ipnet::IpNet = "192.0.2.0/24".parse().expect("a network");
/// tap.start(TapRules::new().peer(office).max_time(Duration::from_secs(60)), &path)?;
/// assert!(tap.is_running());
/// tap.stop();
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct TapLayer {
    shared: Arc<TapShared>,
}

#[derive(Default)]
struct TapShared {
    /// Looked at before the lock.
    is_running: AtomicBool,
    state: Mutex<TapState>,
}

#[derive(Default)]
struct TapState {
    running: Option<Arc<Recording>>,
    /// Of the running tap, or of the last one.
    status: Option<TapStatus>,
}

impl TapShared {
    fn lock(&self) -> MutexGuard<'_, TapState> {
        // Each change is complete before anything that may panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Arc<Recording>> {
        if self.is_running.load(Ordering::Relaxed) { self.lock().running.clone() } else { None }
    }

    /// Ends a tap, if it is the one that runs.
    fn end(&self, status: &TapStatus, end: TapEnd) {
        status.note_end(end);
        let mut state = self.lock();
        if state.status.as_ref().is_some_and(|running| running.is(status)) {
            self.is_running.store(false, Ordering::Relaxed);
            // Dropped after the lock is released: the thread then writes the rest and ends.
            let _ended = state.running.take();
            drop(state);
        }
    }
}

impl TapLayer {
    /// A layer without a tap.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a tap that is written to a new file. The call creates the file and starts a thread.
    ///
    /// # Errors
    ///
    /// A tap is running ([`ResourceBusy`](io::ErrorKind::ResourceBusy)), the file exists
    /// ([`AlreadyExists`](io::ErrorKind::AlreadyExists)) or can't be created, or the thread can't be
    /// started.
    pub fn start(&self, rules: TapRules, path: impl AsRef<Path>) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.running.is_some() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a tap is running: stop it"));
        }
        let shared = Arc::downgrade(&self.shared);
        let ended = move |status: &TapStatus, end| {
            if let Some(shared) = shared.upgrade() {
                shared.end(status, end);
            }
        };
        let recording = Recording::start(rules, path.as_ref(), ended)?;
        state.status = Some(recording.status().clone());
        state.running = Some(Arc::new(recording));
        self.shared.is_running.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the tap that is running, if there is one. Its file is complete when its
    /// [`status`](Self::status) has an end.
    pub fn stop(&self) {
        let status = self.shared.lock().status.clone();
        if let Some(status) = status {
            self.shared.end(&status, TapEnd::Stopped);
        }
    }

    /// Records a connection from now on, whichever the rules are; the layer need not be around it.
    /// False if no tap is running. A connection is in one tap at a time: the last one.
    pub fn join(&self, connection: &ConnectionInfo) -> bool {
        let Some(recording) = self.shared.running() else { return false };
        self.observe(connection, &recording);
        true
    }

    /// Whether a tap is running.
    pub fn is_running(&self) -> bool {
        self.shared.is_running.load(Ordering::Relaxed)
    }

    /// The state of the tap that is running, or of the last one; `None` before the first one.
    pub fn status(&self) -> Option<TapStatus> {
        self.shared.lock().status.clone()
    }

    fn observe(&self, connection: &ConnectionInfo, recording: &Arc<Recording>) {
        let tapped = TappedConnection::new(&self.shared, recording);
        connection.observe(Arc::new(tapped));
    }
}

impl fmt::Debug for TapShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapShared").field("is_running", &self.is_running).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TapLayer {
    type Service = Tap<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Tap { inner, layer: self.clone() }
    }
}

/// A service whose connections can be recorded; made by [`TapLayer`].
#[derive(Clone, Debug)]
pub struct Tap<S> {
    inner: S,
    layer: TapLayer,
}

impl<S> Tap<S> {
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

impl<S: Service<Connection>> Service<Connection> for Tap<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        if let Some(recording) = self.layer.shared.running()
            && recording.rules().choose(&connection)
        {
            self.layer.observe(&connection.info(), &recording);
        }
        self.inner.call(connection)
    }
}
