//! Limits on open connections by a key: [`KeyLimitLayer`].

mod holders;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

pub use self::holders::KeyPlace;
use self::holders::{KeyEntry, KeyHolders};
use crate::key::KeyOf;
use crate::limit::{MAX_REFUSALS, Overflow, RefuseBy, RefuseWith, ResponseFuture};
use crate::{CloseReason, Connection, ConnectionInfo};

/// Limits how many connections with the same key are open at once: a user, a tenant, a server name,
/// a network.
///
/// A key that is known when the connection opens comes from a function: [`by`](Self::by). A key
/// that is known later, such as the user after a login, is reported by the service:
/// [`claim`](Self::claim). A connection has one key at a time, and without a key it is not limited.
///
/// A connection whose key is at the limit when it opens is refused with [`CloseReason::KeyLimit`]:
/// it is closed silently or with a [text](Self::refuse_with), or [another service](Self::refuse_by)
/// answers it; refusals under way are limited as in a
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer). When a `claim` fails, the service answers
/// as its protocol wants it.
///
/// The layer and its clones share the counts and the limits, which can be changed at any time:
/// connections above a new limit stay open. A connection counts until its future has completed or
/// was dropped. It costs a lock and a few hash look-ups when it opens, ends and changes its key;
/// there are at most as many keys as open connections. A frame costs nothing.
///
/// It goes around connections only.
///
/// ```
/// use ropewalk_middleware::{ConnectionInfo, KeyLimitLayer, key};
///
/// // At most 100 connections for each host name.
/// let by_name = KeyLimitLayer::by(100, key::server_name).refuse_with("try later\r\n");
///
/// // At most 3 for each user, known after the login.
/// let by_user = KeyLimitLayer::<String>::new(3);
///
/// /// Called by the service, which has a clone of the layer.
/// fn log_in(by_user: &KeyLimitLayer<String>, connection: &ConnectionInfo, name: &str) -> &'static str {
///     if by_user.claim(connection, name.to_owned()) { "230 welcome" } else { "530 too many connections of this user" }
/// }
/// # assert_eq!((by_name.keys(), by_user.max()), (0, 3));
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct KeyLimitLayer<K, P = RefuseWith> {
    shared: Arc<KeyLimitShared<K>>,
    refusal: P,
}

struct KeyLimitShared<K> {
    key: KeyOf<K>,
    holders: Arc<KeyHolders<K>>,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

impl<K: Clone + Eq + Hash> KeyLimitLayer<K> {
    /// At most `max` connections with the same key at once. Connections have no key until
    /// [`claim`](Self::claim) gives them one.
    pub fn new(max: usize) -> Self {
        Self::by(max, |_| None)
    }

    /// The same with a key that a connection has when it opens; `None` leaves it without one. The
    /// module [`key`](crate::key) has functions for addresses and server names.
    pub fn by(max: usize, key: impl Fn(&Connection) -> Option<K> + Send + Sync + 'static) -> Self {
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let shared = KeyLimitShared { key: Arc::new(key), holders: KeyHolders::new(max), refusals };
        Self { shared: Arc::new(shared), refusal: RefuseWith(Bytes::new()) }
    }
}

impl<K: Clone + Eq + Hash, P> KeyLimitLayer<K, P> {
    /// Refused connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> KeyLimitLayer<K, RefuseWith> {
        KeyLimitLayer { shared: self.shared, refusal: RefuseWith(text.into()) }
    }

    /// Refused connections are served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> KeyLimitLayer<K, RefuseBy<R>> {
        KeyLimitLayer { shared: self.shared, refusal: RefuseBy(service) }
    }

    /// Gives an open connection this key, in place of the one it has. False, and nothing changes,
    /// if the key is at its limit, or if the connection has ended or is not under this layer.
    #[must_use = "the connection does not have the key if this is false"]
    pub fn claim(&self, connection: &ConnectionInfo, key: K) -> bool {
        self.shared.holders.change(connection.id(), Some(key))
    }

    /// Takes the key away from an open connection, for example after a logout.
    pub fn release(&self, connection: &ConnectionInfo) {
        self.shared.holders.change(connection.id(), None);
    }

    /// How many connections have this key at this moment.
    pub fn active(&self, key: &K) -> usize {
        self.shared.holders.active(key)
    }

    /// How many keys have a connection at this moment.
    pub fn keys(&self) -> usize {
        self.shared.holders.keys()
    }

    /// How many connections are open under this layer, including those without a key.
    pub fn connections(&self) -> usize {
        self.shared.holders.connections()
    }

    /// The keys with the most connections, with their counts, largest first: at most `most` of
    /// them. It looks at all keys.
    pub fn largest(&self, most: usize) -> Vec<(K, usize)> {
        self.shared.holders.largest(most)
    }

    /// The limit of each key that has no limit of its own.
    pub fn max(&self) -> usize {
        self.shared.holders.max()
    }

    /// Changes the limit of each key that has no limit of its own, for this layer and its clones.
    pub fn set_max(&self, max: usize) {
        self.shared.holders.set_max(max);
    }

    /// Replaces all limits of single keys, for this layer and its clones.
    pub fn set_limits(&self, limits: impl IntoIterator<Item = (K, usize)>) {
        self.shared.holders.set_limits(limits.into_iter().collect::<HashMap<_, _>>());
    }
}

impl<K, P: Clone> Clone for KeyLimitLayer<K, P> {
    /// Another handle on the same counts.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), refusal: self.refusal.clone() }
    }
}

impl<K: Clone + Eq + Hash, P> fmt::Debug for KeyLimitLayer<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLimitLayer")
            .field("max", &self.max())
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}

impl<S, K, P: Clone> Layer<S> for KeyLimitLayer<K, P> {
    type Service = KeyLimit<S, K, P>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyLimit { inner, layer: self.clone() }
    }
}

/// A service with a limit on the connections of each key; made by [`KeyLimitLayer`].
pub struct KeyLimit<S, K, P = RefuseWith> {
    inner: S,
    layer: KeyLimitLayer<K, P>,
}

impl<S, K, P> KeyLimit<S, K, P> {
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

impl<S: Clone, K, P: Clone> Clone for KeyLimit<S, K, P> {
    /// Another service under the same limits.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

/// A connection that is served, or refused because its key is at the limit.
pub type KeyLimitFuture<F, R> = ResponseFuture<F, R, KeyPlace>;

impl<S, K, P> Service<Connection> for KeyLimit<S, K, P>
where
    S: Service<Connection, Response = ()>,
    K: Clone + Eq + Hash + Send + 'static,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = KeyLimitFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The key of the next connection is not known yet.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let shared = &self.layer.shared;
        let key = (shared.key)(&connection);
        let id = connection.id();
        let place = match shared.holders.enter(id, key) {
            KeyEntry::Counted => KeyPlace::new(&shared.holders, id),
            KeyEntry::Known => KeyPlace::counted_already(id),
            KeyEntry::Full => {
                connection.closing().set_reason(CloseReason::KeyLimit);
                let refusal = &mut self.layer.refusal;
                return ResponseFuture::refuse(refusal, &shared.refusals, connection);
            }
        };
        ResponseFuture::served(self.inner.call(connection), place)
    }
}

impl<S: fmt::Debug, K: Clone + Eq + Hash, P> fmt::Debug for KeyLimit<S, K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLimit")
            .field("inner", &self.inner)
            .field("max", &self.layer.max())
            .field("keys", &self.layer.keys())
            .finish_non_exhaustive()
    }
}
