//! A handle on a connection, for all code but the connection's owner.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::activity::ConnectionState;
use super::observer::ByteObserver;
use super::shared::ConnectionShared;
use super::{Addr, Closing, Peer, ReadDeadlines, Stats, TlsInfo};
use crate::Escaped;

/// A handle on a connection, for all code but the connection's owner. It gives access to the peer,
/// the counters, the end of the connection, and the values that layers have stored for one another.
/// Cheap to clone; it outlives the connection.
///
/// A server's handle lists the infos of all its open connections;
/// [`Connection::info`](super::Connection::info) and a session's `info` return that of one
/// connection.
///
/// ```
/// use ropewalk_middleware::{Connection, ConnectionInfo};
///
/// /// The user that has logged in.
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
pub struct ConnectionInfo(pub(super) Arc<ConnectionShared>);

impl ConnectionInfo {
    /// The connection's number, which is unique in this process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The peer: the other end of the connection.
    pub fn peer(&self) -> &Peer {
        self.0.peer()
    }

    /// The server's own address on this connection, if it is known without the socket. `None` for
    /// plain TCP and Unix connections, where it would cost a system call for each connection;
    /// [`Connection::local`](super::Connection::local) makes that call.
    pub fn local(&self) -> Option<&Addr> {
        self.0.local()
    }

    /// The index of the server's endpoint that accepted it: 0 is the first.
    pub fn listener(&self) -> usize {
        self.0.listener()
    }

    /// The result of the TLS handshake; `None` while the connection is not encrypted.
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

    /// Its state at the last wait of its leaf.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ropewalk_middleware::{ConnectionInfo, ConnectionState};
    /// # fn doc(connections: Vec<ConnectionInfo>) {
    /// let stuck = |c: &&ConnectionInfo| c.state() == ConnectionState::Writing && c.stats().idle() > Duration::from_secs(10);
    /// for connection in connections.iter().filter(stuck) {
    ///     println!("{} has {} bytes unread", connection.peer(), connection.buffered());
    /// }
    /// # }
    /// ```
    pub fn state(&self) -> ConnectionState {
        self.0.activity.state()
    }

    /// How many bytes its buffers take: of a peer that does not read, those that wait for it; of
    /// one that sends a large frame, those that have arrived. Counted by a leaf at each wait, on
    /// connections that a server has accepted; 0 on others.
    pub fn buffered(&self) -> usize {
        self.closing().buffered()
    }

    /// Its drain and abort signals, and the reason for its end.
    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.0))
    }

    /// Drains the connection: it answers the frames it has received and closes. There is no
    /// deadline; `Handle::drain_these` of a server drains any number of connections with one.
    pub fn drain(&self) {
        self.closing().drain();
    }

    /// Aborts the connection: the peer sees a reset, and unwritten data is not sent.
    pub fn abort(&self) {
        self.closing().abort();
    }

    /// Whether the connection was told to abort.
    pub fn is_aborted(&self) -> bool {
        self.0.closing.is_aborted()
    }

    /// Replaces the read deadlines from here on, including those of a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) and of the leaf. For example, a subscriber
    /// may be idle, while a peer that has not logged in may not. A wait that is under way still
    /// counts from its own beginning. The last call counts, through any handle.
    pub fn set_read_deadlines(&self, deadlines: ReadDeadlines) {
        self.0.set_read_deadlines(deadlines);
        self.wake();
    }

    /// The value of this type that [`insert`](Self::insert) has stored.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.extensions()?.get()
    }

    /// Stores a value that other code with a handle on this connection can [`get`](Self::get): one
    /// value of each type. Returns the previous one. It is dropped with the last handle on the
    /// connection.
    pub fn insert<T: Any + Send + Sync>(&self, value: T) -> Option<Arc<T>> {
        self.0.extensions_to_fill().insert(value)
    }

    /// Shows what the connection reads and writes from now on to this observer, in place of any
    /// other.
    pub(crate) fn observe(&self, observer: Arc<dyn ByteObserver>) {
        self.0.observer_to_set().set(observer);
    }

    /// Wakes the task that moves the connection's bytes: the one that has called
    /// [`Closing::watch`].
    pub fn wake(&self) {
        self.0.closing.wake();
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("id", &self.id())
            // Escaped, because the peer chooses its Unix socket's path.
            .field("peer", &format_args!("{}", Escaped::display(self.peer())))
            .field("listener", &self.listener())
            .finish_non_exhaustive()
    }
}

/// Values by their types, in a list because there are few.
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
