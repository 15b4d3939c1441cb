//! Servers beside another one: a hot restart of that one hands their sockets over as well.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ropewalk_middleware::Result;
use tokio::sync::watch;

use super::{InheritedEndpoint, ListedEndpoint, Passed, RestartError, Takeover};
use crate::endpoint::Endpoint;
use crate::server::run::reload::{Included, Reloads};

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
    /// What the server reloads.
    reloads: Reloads,
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
    pub(in crate::server) fn new(reloads: Reloads) -> Self {
        Self { inner: Arc::default(), settled: watch::Sender::new(false), reloads }
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

    /// A server beside this one is bound, and will have something to reload.
    pub(in crate::server) fn expect(&self) {
        self.reloads.expect();
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

    /// Has a server's sockets handed over, and its resources reloaded with those of this one, from
    /// now on, until what is returned is dropped. The sockets are duplicates: it has to be dropped
    /// before the server closes its own.
    pub(in crate::server) fn register(
        &self,
        sockets: Result<Vec<Passed>, RestartError>,
        reloads: &Reloads,
        succeed: impl Fn(Vec<bool>) + Send + Sync + 'static,
    ) -> Registered {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        let sockets = sockets.map(|sockets| sockets.into_iter().map(Some).collect());
        inner.guests.push(Guest { number, sockets, succeed: Box::new(succeed) });
        drop(inner);
        Registered { beside: self.clone(), number, _included: self.reloads.include(reloads) }
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
            let guest = inner.guests.iter().find(|guest| guest.number == *number);
            // Of an endpoint that was removed meanwhile it has no socket any more.
            let left = |n: usize| {
                let sockets = guest.and_then(|guest| guest.sockets.as_ref().ok());
                sockets.is_some_and(|sockets| sockets[n].is_some())
            };
            sockets.iter().zip(taken.by_ref()).for_each(|(&n, taken)| of_it[n] = taken && left(n));
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

/// The sockets of a server beside another one are handed over, and its resources reloaded with
/// those of that one, as long as this value lives.
pub(in crate::server) struct Registered {
    beside: Beside,
    number: u64,
    _included: Included,
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::{Beside, ListedEndpoint, Passed, Reloads};

    fn place(address: &str) -> ListedEndpoint {
        ListedEndpoint {
            endpoint: "tcp:127.0.0.1:0".to_owned(),
            address: address.to_owned(),
            beside: true,
            ..ListedEndpoint::default()
        }
    }

    fn passed(number: usize, address: &str) -> Passed {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap().into();
        Passed { number, place: place(address), socket, path: None }
    }

    #[test]
    fn a_server_learns_what_was_taken_of_the_sockets_that_it_still_has() {
        let beside = Beside::new(Reloads::default());
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let sockets = ["tcp:a", "tcp:b", "tcp:c", "tcp:d"].into_iter().enumerate();
        let sockets = sockets.map(|(number, address)| passed(number, address)).collect();
        let registered = beside.register(Ok(sockets), &Reloads::default(), move |taken| {
            tell.lock().unwrap().push(taken);
        });
        let handed = |beside: &Beside| -> Vec<String> {
            let sockets = beside.hand_over().unwrap_or_default();
            sockets.into_iter().map(|passed| passed.place.address).collect()
        };
        registered.remove(1);
        assert_eq!(handed(&beside), ["tcp:a", "tcp:c", "tcp:d"]);
        // One more goes while the new process takes them.
        registered.remove(0);
        beside.note_taken(&[false, true, false]);
        beside.succeed();
        assert_eq!(*told.lock().unwrap(), [vec![false, false, true, false]]);
        // If only what it has removed was taken, it goes on.
        assert_eq!(handed(&beside), ["tcp:c", "tcp:d"]);
        registered.remove(2);
        beside.note_taken(&[true, false]);
        beside.succeed();
        assert_eq!(told.lock().unwrap().len(), 1);
        drop(registered);
        assert!(handed(&beside).is_empty());
    }
}
