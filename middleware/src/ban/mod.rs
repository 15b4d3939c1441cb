//! Peers that are refused for a time because of their offences: [`BanLayer`].

mod offenders;

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

pub use self::offenders::BanRules;
use self::offenders::Offenders;
use crate::key::{self, KeyOf};
use crate::limit::{MAX_REFUSALS, Overflow, RefuseBy, RefuseWith, ResponseFuture, Unlimited};
use crate::{CloseReason, Connection, ConnectionInfo};

/// Refuses the connections of peers that have offended too often, for a time.
///
/// A frame that does not parse is an offence, and so is a stream in which the codec finds no frame
/// at all. A frame that is cut short by the end of the stream is not: a client that is stopped leaves
/// one behind. The service reports others, such as a wrong password, by [`offence`]. At the number of
/// its [`BanRules`] the peer is banned. The connection of that last offence answers it and closes,
/// with [`CloseReason::Banned`]; frames that have arrived behind it are discarded. Other open
/// connections of the peer stay.
///
/// A peer is an IPv4 address or an IPv6 /64; [`by`](Self::by) tells peers apart by another key.
/// Many people may share an address: choose rules that forgive. A refused connection ends with
/// [`CloseReason::Banned`]. It is closed silently or with a [text](Self::refuse_with), or [another
/// service](Self::refuse_by) answers it; refusals under way are limited as in a
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
///
/// The layer remembers at most [`MAX_KEYS`](Self::MAX_KEYS) keys, until their ban or the time of
/// their offences is over. When the table is full, an eighth of those that are not banned is
/// forgotten; when it is full of bans, further offenders are not banned. [`untracked`] counts both.
///
/// The layer and its clones share the table and the rules; if two of them are around a connection,
/// an offence counts once. A connection costs a lock, a look-up and a small allocation; a frame that
/// parses costs nothing, and no timer runs.
///
/// It goes around connections only. Under the PROXY protocol the peer is the client, not the proxy.
///
/// [`untracked`]: Self::untracked
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::{BanLayer, BanRules, ConnectionInfo, ban};
///
/// let minute = Duration::from_secs(60);
/// let bans = BanLayer::new(BanRules::new(5, 10 * minute, 60 * minute)).refuse_with("521 go away\r\n");
///
/// /// Called by the service with the connection's info.
/// fn check(connection: &ConnectionInfo, password: &str) -> bool {
///     let is_right = password == "sesame";
///     if !is_right {
///         ban::offence(connection);
///     }
///     is_right
/// }
/// # assert_eq!(bans.banned(), []);
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct BanLayer<K = IpAddr, P = RefuseWith> {
    shared: Arc<BanShared<K>>,
    refusal: P,
}

struct BanShared<K> {
    key: KeyOf<K>,
    offenders: Offenders<K>,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

impl BanLayer {
    /// The most keys remembered at once.
    pub const MAX_KEYS: usize = 65_536;

    /// Bans peers by their address.
    pub fn new(rules: BanRules) -> Self {
        Self::by(rules, key::host)
    }
}

impl<K: Clone + Eq + Hash> BanLayer<K> {
    /// Bans peers by another key; connections without a key are neither watched nor refused. The
    /// function can exempt peers: monitoring, or one's own network.
    pub fn by(
        rules: BanRules,
        key: impl Fn(&Connection) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        let shared = BanShared {
            key: Arc::new(key),
            offenders: Offenders::new(rules, BanLayer::MAX_KEYS),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
        };
        Self { shared: Arc::new(shared), refusal: RefuseWith(Bytes::new()) }
    }
}

impl<K: Clone + Eq + Hash, P> BanLayer<K, P> {
    /// Refused connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> BanLayer<K, RefuseWith> {
        BanLayer { shared: self.shared, refusal: RefuseWith(text.into()) }
    }

    /// Refused connections are served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> BanLayer<K, RefuseBy<R>> {
        BanLayer { shared: self.shared, refusal: RefuseBy(service) }
    }

    /// The rules in force.
    pub fn rules(&self) -> BanRules {
        self.shared.offenders.rules()
    }

    /// Replaces the rules, for this layer and its clones. Bans that have begun stay as they are.
    pub fn replace(&self, rules: BanRules) {
        self.shared.offenders.set_rules(rules);
    }

    /// Counts so many offences of a key, and returns whether it is banned now. [`offence`] does
    /// this for a connection.
    pub fn offend(&self, key: &K, offences: u32) -> bool {
        self.shared.offenders.offend(key, offences)
    }

    /// Bans a key from now on for this time. False if the table is full of bans.
    pub fn ban(&self, key: K, time: Duration) -> bool {
        self.shared.offenders.ban(key, time)
    }

    /// Ends the ban of a key, and forgets its offences. True if there were any.
    pub fn pardon(&self, key: &K) -> bool {
        self.shared.offenders.pardon(key)
    }

    /// Whether a key is banned at this moment.
    pub fn is_banned(&self, key: &K) -> bool {
        self.shared.offenders.is_banned(key)
    }

    /// The keys that are banned at this moment, in no order, with the time that is left of each
    /// ban. It looks at all keys that are remembered.
    pub fn banned(&self) -> Vec<(K, Duration)> {
        self.shared.offenders.banned()
    }

    /// How many keys have offended and are not banned. It looks at all keys that are remembered.
    pub fn suspects(&self) -> usize {
        self.shared.offenders.suspects()
    }

    /// How many bans have begun so far.
    pub fn bans(&self) -> u64 {
        self.shared.offenders.bans()
    }

    /// How many keys were forgotten or not remembered, because the table was full.
    pub fn untracked(&self) -> u64 {
        self.shared.offenders.untracked()
    }
}

/// Reports an offence of this connection's peer to each [`BanLayer`] around the connection; without
/// one it does nothing. If the peer is banned by it, this frame is the last one of the connection
/// that is answered.
pub fn offence(connection: &ConnectionInfo) {
    let Some(watched) = connection.get::<Watched>() else { return };
    // Every layer counts it, also after one has banned the peer.
    let mut is_banned = false;
    for file in &watched.0 {
        is_banned |= file.offend();
    }
    if is_banned {
        connection.closing().set_reason(CloseReason::Banned);
        connection.closing().finish();
    }
}

/// The layers that watch a connection, among the values of its [`ConnectionInfo`].
struct Watched(Vec<Arc<dyn File>>);

/// A connection's key in the table of one layer.
trait File: Send + Sync {
    /// Counts an offence, and returns whether the key is banned now.
    fn offend(&self) -> bool;

    /// Whether it is in the table at this address.
    fn is_in(&self, table: *const ()) -> bool;
}

struct Keyed<K> {
    shared: Arc<BanShared<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash + Send + Sync> File for Keyed<K> {
    fn offend(&self) -> bool {
        self.shared.offenders.offend(&self.key, 1)
    }

    fn is_in(&self, table: *const ()) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.shared), table)
    }
}

impl<K, P: Clone> Clone for BanLayer<K, P> {
    /// Another handle on the same table.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), refusal: self.refusal.clone() }
    }
}

impl<K: Clone + Eq + Hash, P> fmt::Debug for BanLayer<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BanLayer")
            .field("rules", &self.rules())
            .field("bans", &self.bans())
            .finish_non_exhaustive()
    }
}

impl<S, K, P: Clone> Layer<S> for BanLayer<K, P> {
    type Service = Ban<S, K, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Ban { inner, layer: self.clone() }
    }
}

/// A service for the peers that are not banned; made by [`BanLayer`].
pub struct Ban<S, K = IpAddr, P = RefuseWith> {
    inner: S,
    layer: BanLayer<K, P>,
}

impl<S, K, P> Ban<S, K, P> {
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

impl<S: Clone, K, P: Clone> Clone for Ban<S, K, P> {
    /// Another service with the same table.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

/// A connection that is served, or refused because its peer is banned.
pub type BanFuture<F, R> = ResponseFuture<F, R, Unlimited>;

impl<S, K, P> Service<Connection> for Ban<S, K, P>
where
    S: Service<Connection, Response = ()>,
    K: Clone + Eq + Hash + Send + Sync + 'static,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = BanFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The key of the next connection is not known yet.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let shared = &self.layer.shared;
        if let Some(key) = (shared.key)(&connection) {
            if shared.offenders.is_banned(&key) {
                connection.closing().set_reason(CloseReason::Banned);
                return ResponseFuture::refuse(
                    &mut self.layer.refusal,
                    &shared.refusals,
                    connection,
                );
            }
            let info = connection.info();
            let mut files = info.get::<Watched>().map_or_else(Vec::new, |outer| outer.0.clone());
            let table = Arc::as_ptr(shared).cast();
            // A clone of this layer around this one counts already.
            if !files.iter().any(|file| file.is_in(table)) {
                files.push(Arc::new(Keyed { shared: Arc::clone(shared), key }));
                info.insert(Watched(files));
            }
        }
        ResponseFuture::served(self.inner.call(connection), Unlimited::default())
    }
}

impl<S: fmt::Debug, K: Clone + Eq + Hash, P> fmt::Debug for Ban<S, K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ban")
            .field("inner", &self.inner)
            .field("rules", &self.layer.rules())
            .finish_non_exhaustive()
    }
}
