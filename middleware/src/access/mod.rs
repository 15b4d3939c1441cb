//! Which addresses are served: [`AccessLayer`] and its rules.

mod rules;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

pub use self::rules::{AccessRules, AccessRulesError, Verdict};
use crate::limit::{MAX_REFUSALS, Overflow, RefuseBy, RefuseWith, ResponseFuture, Unlimited};
use crate::{CloseReason, Connection};

/// Refuses the connections of peers that its rules deny.
///
/// A refused connection ends with [`CloseReason::AccessDenied`]. It is closed silently or with a
/// [text](Self::refuse_with), or [another service](Self::refuse_by) answers it; refusals under way
/// are limited as in a [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
///
/// The rules are shared: [`replace`](Self::replace) on one clone of the layer acts for all, from
/// the next connection on. Open connections stay open. A connection costs a read lock and a
/// look-up; a frame costs nothing.
///
/// With the feature `x509`, the names in a peer's certificate (mutual TLS) are stored among the
/// values of the connection, as an `Identity`, and rules can require one of them ([`AccessRules`]).
/// Reading the certificate costs some microseconds, for peers that have one.
///
/// It goes around connections only. With the PROXY protocol the address is the client's.
///
/// ```
/// use ropewalk_middleware::access::{AccessLayer, AccessRules};
///
/// let access = AccessLayer::new("allow 10.0.0.0/8\ndeny all".parse()?).refuse_with("550 not from your network\r\n");
/// let handle = access.clone();
/// // Later, from a file that was edited. An invalid file is an error here, and the old rules stay.
/// handle.replace("allow 10.0.0.0/8\nallow 192.0.2.0/24\ndeny all".parse()?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct AccessLayer<P = RefuseWith> {
    shared: Arc<RulesInForce>,
    refusal: P,
}

#[derive(Debug)]
struct RulesInForce {
    rules: RwLock<Arc<AccessRules>>,
    /// One permit for each refusal that may be under way.
    refusals: Arc<Semaphore>,
}

impl RulesInForce {
    fn rules(&self) -> Arc<AccessRules> {
        // Only an `Arc` is replaced under the lock, so it is consistent even after a panic.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AccessLayer {
    /// Closes the connections that these rules deny, silently.
    pub fn new(rules: AccessRules) -> Self {
        let rules = RwLock::new(Arc::new(rules));
        let shared =
            Arc::new(RulesInForce { rules, refusals: Arc::new(Semaphore::new(MAX_REFUSALS)) });
        Self { shared, refusal: RefuseWith(Bytes::new()) }
    }
}

impl<P> AccessLayer<P> {
    /// Denied connections get this text: see
    /// [`ConnectionLimitLayer::refuse_with`](crate::ConnectionLimitLayer::refuse_with).
    pub fn refuse_with(self, text: impl Into<Bytes>) -> AccessLayer<RefuseWith> {
        AccessLayer { shared: self.shared, refusal: RefuseWith(text.into()) }
    }

    /// Denied connections are served by `service`: see
    /// [`ConnectionLimitLayer::refuse_by`](crate::ConnectionLimitLayer::refuse_by).
    pub fn refuse_by<R>(self, service: R) -> AccessLayer<RefuseBy<R>> {
        AccessLayer { shared: self.shared, refusal: RefuseBy(service) }
    }

    /// Replaces all the rules, for this layer and its clones.
    pub fn replace(&self, rules: AccessRules) {
        let rules = Arc::new(rules);
        // The old rules are dropped after the lock is released.
        let _old = std::mem::replace(
            &mut *self.shared.rules.write().unwrap_or_else(PoisonError::into_inner),
            rules,
        );
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<AccessRules> {
        self.shared.rules()
    }
}

impl<P: Clone> Clone for AccessLayer<P> {
    /// Another handle on the same rules.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), refusal: self.refusal.clone() }
    }
}

impl<S, P: Clone> Layer<S> for AccessLayer<P> {
    type Service = Access<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Access { inner, layer: self.clone() }
    }
}

/// A service for the peers that rules allow; made by [`AccessLayer`].
#[derive(Clone)]
pub struct Access<S, P = RefuseWith> {
    inner: S,
    layer: AccessLayer<P>,
}

impl<S, P> Access<S, P> {
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

/// A connection that is served, or refused by its address.
pub type AccessFuture<F, R> = ResponseFuture<F, R, Unlimited>;

impl<S, P> Service<Connection> for Access<S, P>
where
    S: Service<Connection, Response = ()>,
    P: Overflow<S::Error>,
{
    type Response = ();
    type Error = S::Error;
    type Future = AccessFuture<S::Future, P::Refusal>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        match verdict(&self.layer.shared.rules(), &connection) {
            Verdict::Allow => {
                ResponseFuture::served(self.inner.call(connection), Unlimited::default())
            }
            Verdict::Deny => {
                connection.closing().set_reason(CloseReason::AccessDenied);
                ResponseFuture::refuse(
                    &mut self.layer.refusal,
                    &self.layer.shared.refusals,
                    connection,
                )
            }
        }
    }
}

#[cfg(not(feature = "x509"))]
fn verdict(rules: &AccessRules, connection: &Connection) -> Verdict {
    rules.of_peer(connection.peer())
}

/// Asks the rules, and stores the names in the peer's certificate, if there is one.
#[cfg(feature = "x509")]
fn verdict(rules: &AccessRules, connection: &Connection) -> Verdict {
    let identity = crate::Identity::of(connection.peer());
    let by_identity = rules.of_identity(identity.as_ref());
    if let Some(identity) = identity {
        connection.info().insert(identity);
    }
    if by_identity == Verdict::Deny { Verdict::Deny } else { rules.of_peer(connection.peer()) }
}

impl<S: fmt::Debug, P> fmt::Debug for Access<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("inner", &self.inner)
            .field("rules", &self.layer.shared.rules())
            .finish_non_exhaustive()
    }
}
