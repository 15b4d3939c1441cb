//! A connection as others see it.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::shared::Shared;
use super::{Addr, Closing, Peer, ReadDeadlines, Stats, TlsInfo};
use crate::Escaped;

/// A handle on a connection for everybody but its owner: who is at the other end, what was counted, how it is ended, and
/// whatever layers have left for one another. Cheap to clone; it outlives the connection.
///
/// A server's handle lists those of all its open connections, [`Connection::info`](super::Connection::info) and a
/// session's `info` have the one at hand.
///
/// ```
/// use ropewalk_middleware::{Connection, ConnectionInfo};
///
/// /// Who has logged in.
/// struct User(String);
///
/// fn log_in(connection: &ConnectionInfo, name: &str) {
///     connection.insert(User(name.to_owned()));
/// }
///
/// fn describe(connection: &ConnectionInfo) -> String {
///     let user = connection.get::<User>().map_or("nobody".to_owned(), |user| user.0.clone());
///     format!("{user} from {}, {} bytes sent", connection.peer(), connection.stats().bytes_out())
/// }
/// ```
#[derive(Clone)]
pub struct ConnectionInfo(pub(super) Arc<Shared>);

impl ConnectionInfo {
    /// The connection's number; no other connection of this process has or had it.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        self.0.peer()
    }

    /// The address of this end, where it is known without the socket: `None` for plain TCP and Unix connections, whose
    /// address would be a system call for each. [`Connection::local`](super::Connection::local) makes it.
    pub fn local(&self) -> Option<&Addr> {
        self.0.local()
    }

    /// Which of the server's endpoints it came in on: 0 is the first.
    pub fn listener(&self) -> usize {
        self.0.listener()
    }

    /// What the TLS handshake settled; `None` as long as the bytes are plain.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.peer().tls()
    }

    /// How long ago the connection was accepted.
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        Stats(Arc::clone(&self.0))
    }

    /// Its drain and abort signals, and its reason.
    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.0))
    }

    /// Asks the connection to finish what it has received and close. There is no deadline: `Handle::drain_these` of a
    /// server has one, for any number of connections.
    pub fn drain(&self) {
        self.closing().drain();
    }

    /// Breaks the connection: the peer sees a reset, and what was not written is not sent.
    pub fn abort(&self) {
        self.closing().abort();
    }

    /// Other deadlines for the peer from here on, in place of those of a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer)
    /// and of the leaf: a subscriber may be idle, somebody who has yet to log in may not. The wait that is under way keeps
    /// its beginning. The last ones that were given stand, whichever handle gave them.
    pub fn set_read_deadlines(&self, deadlines: ReadDeadlines) {
        self.0.set_read_deadlines(deadlines);
        self.wake();
    }

    /// What was left here of this type by [`insert`](Self::insert).
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.extensions()?.get()
    }

    /// Leaves a value for others who handle this connection: one of each type. Returns the one that was there. It lives as
    /// long as the last handle on the connection.
    pub fn insert<T: Any + Send + Sync>(&self, value: T) -> Option<Arc<T>> {
        self.0.extensions_to_fill().insert(value)
    }

    /// Has the task that moves the connection's bytes look again at what there is to do: the one that has asked by
    /// [`Closing::watch`].
    pub fn wake(&self) {
        self.0.closing.wake();
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("id", &self.id())
            // A Unix socket's path is the peer's choice.
            .field("peer", &format_args!("{}", Escaped::display(self.peer())))
            .field("listener", &self.listener())
            .finish_non_exhaustive()
    }
}

/// Values by their types: few, so a list.
#[derive(Default)]
pub(super) struct Extensions(RwLock<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>);

impl Extensions {
    fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let values = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (_, value) = values.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        Arc::clone(value).downcast().ok()
    }

    fn insert<T: Any + Send + Sync>(&self, value: T) -> Option<Arc<T>> {
        let value: Arc<dyn Any + Send + Sync> = Arc::new(value);
        let mut values = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, old)) = values.iter_mut().find(|(id, _)| *id == TypeId::of::<T>()) {
            return std::mem::replace(old, value).downcast().ok();
        }
        values.push((TypeId::of::<T>(), value));
        None
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extensions").finish_non_exhaustive()
    }
}
