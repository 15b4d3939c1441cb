//! Servers beside another one: a hot restart of that one hands their sockets over as well.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ropewalk_middleware::Result;
use tokio::sync::watch;

use super::{InheritedEndpoint, ListedEndpoint, Passed, RestartError, Takeover};
use crate::endpoint::Endpoint;

/// Told which of its sockets another process has taken over, by the numbers that they had at
/// `register`.
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
    /// Whose sockets were handed over last, with the numbers of these sockets.
    handed: Vec<(u64, Vec<usize>)>,
    /// Which of them were taken.
    taken: Vec<bool>,
    /// The sockets that this process was handed.
    succession: Option<Takeover>,
}

struct Guest {
    number: u64,
    /// Its sockets, by number; `None` if their endpoint was removed.
    sockets: Result<Vec<Option<Passed>>, RestartError>,
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
        let sockets = sockets.map(|sockets| sockets.into_iter().map(Some).collect());
        inner.guests.push(Guest { number, sockets, succeed: Box::new(succeed) });
        Registered { beside: self.clone(), number }
    }

    /// The sockets of all servers beside this one, for a new process.
    pub(in crate::server) fn hand_over(&self) -> Result<Vec<Passed>, RestartError> {
        let mut inner = self.lock();
        let mut sockets = Vec::new();
        let mut handed = Vec::new();
        for guest in &inner.guests {
            let of_it = guest.sockets.as_ref().map_err(Clone::clone)?.iter().enumerate();
            let of_it: Vec<_> =
                of_it.filter_map(|(n, passed)| Some((n, passed.as_ref()?))).collect();
            handed.push((guest.number, of_it.iter().map(|(n, _)| *n).collect()));
            for (_, Passed { number, place, socket, path }) in of_it {
                sockets.push(Passed {
                    number: *number,
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
        for (number, sockets) in &inner.handed {
            let mut of_it = vec![false; sockets.last().map_or(0, |last| last + 1)];
            sockets.iter().zip(taken.by_ref()).for_each(|(&n, taken)| of_it[n] = taken);
            let guest = inner.guests.iter().find(|guest| guest.number == *number);
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

impl Registered {
    /// An endpoint is removed: closes the duplicates of its sockets, which would listen on.
    pub(in crate::server) fn remove(&self, endpoint: usize) {
        let mut inner = self.beside.lock();
        let guest = inner.guests.iter_mut().find(|guest| guest.number == self.number);
        let Some(Ok(sockets)) = guest.map(|guest| guest.sockets.as_mut()) else { return };
        for socket in sockets {
            drop(socket.take_if(|passed| passed.number == endpoint));
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.beside.lock().guests.retain(|guest| guest.number != self.number);
    }
}

/// Which sockets of a server beside another one the new process has taken, by number, once it has.
pub(in crate::server) type GivenUp = OnceLock<Vec<bool>>;
