//! Servers beside another one: a hot restart of that one hands their sockets over as well.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ropewalk_middleware::Result;
use tokio::sync::watch;

use super::{InheritedEndpoint, ListedEndpoint, Passed, RestartError, Takeover};
use crate::endpoint::Endpoint;

/// Told which of its sockets another process has taken over, in the order in which they were handed
/// over.
type Succeed = Box<dyn Fn(Vec<bool>) + Send + Sync>;

/// What a server shares with those beside it.
#[derive(Clone)]
pub(in crate::server) struct Beside {
    inner: Arc<Mutex<Guests>>,
    /// Whether this process is the one that serves: not while another one may still take everything
    /// back.
    settled: watch::Sender<bool>,
}

#[derive(Default)]
struct Guests {
    /// Those that run.
    guests: Vec<Guest>,
    next: u64,
    /// Whose sockets were handed over last, and how many of each.
    handed: Vec<(u64, usize)>,
    /// Which of them were taken.
    taken: Vec<bool>,
    /// The sockets that this process was handed.
    succession: Option<Takeover>,
}

struct Guest {
    number: u64,
    sockets: Result<Vec<Passed>, RestartError>,
    succeed: Succeed,
}

impl Beside {
    pub(in crate::server) fn new() -> Self {
        Self { inner: Arc::default(), settled: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        // Only plain values change under it, so they are consistent even after a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what an old process has handed over, for this server and those beside it.
    pub(in crate::server) fn inherit(&self, succession: Option<Takeover>) {
        self.lock().succession = succession;
    }

    /// The state of an endpoint, if an old process has handed it over.
    pub(in crate::server) fn take(&self, wanted: &ListedEndpoint) -> InheritedEndpoint {
        let mut inner = self.lock();
        inner.succession.as_mut().map(|takeover| takeover.take(wanted)).unwrap_or_default()
    }

    /// The next endpoint that a handle had added in the old process, with the number of its
    /// service.
    pub(in crate::server) fn take_added(
        &self,
        services: &[Arc<str>],
    ) -> Result<Option<(usize, Endpoint, InheritedEndpoint)>> {
        let mut inner = self.lock();
        inner.succession.as_mut().map_or(Ok(None), |takeover| takeover.take_added(services))
    }

    /// All is bound: takes what is left of it.
    pub(in crate::server) fn succession(&self) -> Option<Takeover> {
        self.lock().succession.take()
    }

    /// The old process, if there was one, has made way.
    pub(in crate::server) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Waits until this process is the one that serves.
    pub(in crate::server) async fn settled(&self) {
        // The sender is in this value, so it is never closed.
        drop(self.settled.subscribe().wait_for(|settled| *settled).await);
    }

    /// Has a server's sockets handed over from now on, until what is returned is dropped. They are
    /// duplicates: it has to be dropped before the server closes its own.
    pub(in crate::server) fn register(
        &self,
        sockets: Result<Vec<Passed>, RestartError>,
        succeed: impl Fn(Vec<bool>) + Send + Sync + 'static,
    ) -> Registered {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.guests.push(Guest { number, sockets, succeed: Box::new(succeed) });
        Registered { beside: self.clone(), number }
    }

    /// The sockets of all servers beside this one, for a new process.
    pub(in crate::server) fn hand_over(&self) -> Result<Vec<Passed>, RestartError> {
        let mut inner = self.lock();
        let mut sockets = Vec::new();
        let mut handed = Vec::new();
        for guest in &inner.guests {
            let of_it = guest.sockets.as_ref().map_err(Clone::clone)?;
            handed.push((guest.number, of_it.len()));
            for Passed { place, socket, path } in of_it {
                sockets.push(Passed {
                    place: place.clone(),
                    socket: socket.try_clone()?,
                    path: path.clone(),
                });
            }
        }
        inner.handed = handed;
        inner.taken = Vec::new();
        Ok(sockets)
    }

    /// Notes which of them the new process has taken.
    pub(in crate::server) fn note_taken(&self, taken: &[bool]) {
        self.lock().taken = taken.to_vec();
    }

    /// The new process has begun: ends the servers whose sockets it has taken.
    pub(in crate::server) fn succeed(&self) {
        let inner = self.lock();
        let mut taken = inner.taken.iter().copied();
        for &(number, sockets) in &inner.handed {
            let of_it: Vec<bool> = taken.by_ref().take(sockets).collect();
            let guest = inner.guests.iter().find(|guest| guest.number == number);
            if let Some(guest) = guest.filter(|_| of_it.contains(&true)) {
                (guest.succeed)(of_it);
            }
        }
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").field("settled", &*self.settled.borrow()).finish_non_exhaustive()
    }
}

/// The sockets of a server beside another one are handed over as long as this value lives.
pub(in crate::server) struct Registered {
    beside: Beside,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.beside.lock().guests.retain(|guest| guest.number != self.number);
    }
}

/// Which sockets of a server beside another one the new process has taken, once it has.
pub(in crate::server) type GivenUp = OnceLock<Vec<bool>>;
