//! Reloads certificates, and the resources of `Server::reload`, while a server runs.

#[cfg(feature = "rustls")]
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
#[cfg(feature = "rustls")]
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ropewalk_middleware::event::{aside, contain};
use ropewalk_middleware::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::timeout;

use crate::endpoint::Endpoint;
#[cfg(feature = "rustls")]
use crate::tls::TlsConfig;

/// How long the certificates and resources of a server may take to be read, all together. One that
/// hangs (a network file system that is gone) must not keep all later reloads waiting.
const READING: Duration = Duration::from_secs(60);

/// A resource that can be read again while the server runs: an allow list, limits, a file of users.
/// It is reloaded by [`Handle::reload`](crate::Handle::reload) and, with
/// [`Server::signals`](crate::Server::signals), by SIGHUP, together with the certificates and all
/// other such resources of the server: all of them or none.
///
/// So it has two steps. Everything that can fail is in [`read`](Reload::read), which changes
/// nothing. [`set`](Reload::set) can't fail, and is called when every resource was read.
///
/// ```
/// use std::path::PathBuf;
/// use ropewalk::layer::{AccessLayer, AccessRules};
/// use ropewalk::server::Reload;
/// use ropewalk::Result;
///
/// struct AllowList {
///     file: PathBuf,
///     layer: AccessLayer,
/// }
///
/// impl Reload for AllowList {
///     type State = AccessRules;
///
///     async fn read(&self) -> Result<AccessRules> {
///         Ok(tokio::fs::read_to_string(&self.file).await?.parse()?)
///     }
///
///     fn set(&self, rules: AccessRules) {
///         self.layer.replace(rules);
///     }
/// }
/// ```
pub trait Reload: Send + Sync + 'static {
    /// The new state that was read.
    type State: Send + 'static;

    /// Reads the new state, and checks it. All resources of a server together have 60 s; after that
    /// the future is dropped, and the reload fails.
    ///
    /// # Errors
    ///
    /// Then nothing is reloaded, and the old state of every resource stays.
    fn read(&self) -> impl Future<Output = Result<Self::State>> + Send;

    /// Puts the new state in the place of the old one. It must not block. If it panics, the reload
    /// fails, and the other resources have their new states all the same.
    fn set(&self, state: Self::State);
}

/// Makes a [`Reload`] of two functions.
///
/// ```
/// use ropewalk::layer::AccessLayer;
/// use ropewalk::server::reload_fn;
/// use ropewalk::Server;
///
/// # fn doc() -> ropewalk::Result {
/// let access = AccessLayer::new("deny all".parse()?);
/// let rules = access.clone();
/// # let _ =
/// Server::new()
///     .listen("tcp:0.0.0.0:8007")
///     .layer(access)
///     .reload(reload_fn(
///         async || Ok(tokio::fs::read_to_string("/etc/x/allow").await?.parse()?),
///         move |new| rules.replace(new),
///     ))
///     .signals();
/// # Ok(())
/// # }
/// ```
pub fn reload_fn<T, R, Fut, S>(read: R, set: S) -> ReloadFn<R, S>
where
    R: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send,
    S: Fn(T) + Send + Sync + 'static,
    T: Send + 'static,
{
    ReloadFn { read, set }
}

/// A [`Reload`] of two functions: see [`reload_fn`].
pub struct ReloadFn<R, S> {
    read: R,
    set: S,
}

impl<T, R, Fut, S> Reload for ReloadFn<R, S>
where
    R: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send,
    S: Fn(T) + Send + Sync + 'static,
    T: Send + 'static,
{
    type State = T;

    fn read(&self) -> impl Future<Output = Result<T>> + Send {
        (self.read)()
    }

    fn set(&self, state: T) {
        (self.set)(state);
    }
}

impl<R, S> fmt::Debug for ReloadFn<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadFn").finish_non_exhaustive()
    }
}

/// The second step of a reload.
type Set = Box<dyn FnOnce() + Send>;

/// The first step of a resource of any type.
type Read = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Set>> + Send>> + Send + Sync>;

/// All certificates and resources that are reloaded together. Clones share them.
#[derive(Clone, Default)]
pub(in crate::server) struct Reloads(Arc<ReloadsShared>);

#[derive(Default)]
struct ReloadsShared {
    files: Mutex<Files>,
    resources: Mutex<Vec<Read>>,
    /// Those of the servers beside this one, which are reloaded with its own.
    beside: Mutex<Vec<Reloads>>,
    /// Whether there is or will be a server beside this one, which may have something to reload.
    expects: AtomicBool,
    /// Held during a reload, so that two at once happen one after the other.
    turn: AsyncMutex<()>,
    /// Notified when a certificate that can be reloaded was added.
    added: Notify,
}

#[derive(Clone, Default)]
struct Files {
    /// Each with the number of its endpoint, if it belongs to one.
    #[cfg(feature = "rustls")]
    tls: Vec<(Option<usize>, TlsConfig)>,
}

impl Reloads {
    #[cfg(feature = "rustls")]
    pub(in crate::server) fn add(&self, endpoint: Option<usize>, tls: TlsConfig) {
        if tls.may_change() {
            self.0.files.lock().unwrap_or_else(PoisonError::into_inner).tls.push((endpoint, tls));
            self.0.added.notify_one();
        }
    }

    /// The files whose certificates are in use, and when they expire.
    #[cfg(feature = "rustls")]
    pub(in crate::server) fn expiries(&self) -> BTreeMap<PathBuf, Duration> {
        let files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.tls.iter().flat_map(|(_, tls)| tls.expiries()).collect()
    }

    #[cfg_attr(not(feature = "rustls"), allow(clippy::unused_self))]
    pub(in crate::server) fn add_endpoint(&self, number: usize, endpoint: &Endpoint) {
        #[cfg(feature = "rustls")]
        endpoint.tls_config().into_iter().for_each(|tls| self.add(Some(number), tls.clone()));
        #[cfg(not(feature = "rustls"))]
        let _ = (number, endpoint);
    }

    /// Stops reloading the certificates of this endpoint, so that their files may be deleted.
    #[cfg_attr(not(feature = "rustls"), allow(clippy::unused_self))]
    pub(in crate::server) fn remove_endpoint(&self, number: usize) {
        #[cfg(feature = "rustls")]
        self.0
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tls
            .retain(|(of, _)| *of != Some(number));
        #[cfg(not(feature = "rustls"))]
        let _ = number;
    }

    /// Waits until a certificate that can be reloaded is added. Cancel safe.
    pub(in crate::server) async fn added(&self) {
        self.0.added.notified().await;
    }

    pub(in crate::server) fn add_resource(&self, resource: impl Reload) {
        let resource = Arc::new(resource);
        let read: Read = Arc::new(move || {
            let resource = Arc::clone(&resource);
            Box::pin(async move {
                let state = resource.read().await?;
                Ok(Box::new(move || resource.set(state)) as Set)
            })
        });
        self.resources_mut(|resources| resources.push(read));
    }

    fn resources_mut<T>(&self, f: impl FnOnce(&mut Vec<Read>) -> T) -> T {
        f(&mut self.0.resources.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn beside_mut<T>(&self, f: impl FnOnce(&mut Vec<Self>) -> T) -> T {
        f(&mut self.0.beside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// There will be a server beside this one. So the signal is caught before that one answers.
    pub(in crate::server) fn expect(&self) {
        self.0.expects.store(true, Ordering::Release);
        self.0.added.notify_one();
    }

    /// Reloads those of a server beside this one as well, as long as what is returned lives.
    pub(in crate::server) fn include(&self, guest: &Self) -> Included {
        self.beside_mut(|beside| beside.push(guest.clone()));
        Included { all: self.clone(), guest: guest.clone() }
    }

    /// Whether there is nothing to reload. A server beside this one may get something later.
    pub(in crate::server) fn is_empty(&self) -> bool {
        #[cfg(feature = "rustls")]
        let no_files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner).tls.is_empty();
        #[cfg(not(feature = "rustls"))]
        let no_files = true;
        no_files
            && self.resources_mut(|resources| resources.is_empty())
            && !self.0.expects.load(Ordering::Acquire)
    }

    /// Reads everything again, and replaces all states if every reading succeeds; otherwise the old
    /// states stay. It runs in a task of its own on this runtime, so that a reload that has begun is
    /// completed.
    pub(in crate::server) async fn reload(&self, runtime: &Handle) -> Result {
        let this = self.clone();
        let reading = runtime.spawn(async move { this.read_and_set().await });
        let panics = match reading.await.map_err(Error::from).and_then(|result| result) {
            Ok(0) => {
                aside!(INFO, "reloaded");
                return Ok(());
            }
            Ok(panics) => panics,
            Err(error) => {
                let text = error.to_string();
                aside!(ERROR, error = %text, "the reload failed: the old state of everything stays");
                return Err(error);
            }
        };
        let text = "a resource panicked when its new state was set; the others have theirs";
        aside!(ERROR, panics, "{text}");
        Err(Error::other(text))
    }

    /// Returns how many panicked when their new states were set.
    async fn read_and_set(&self) -> Result<usize> {
        let mut each = self.beside_mut(|beside| beside.clone());
        each.insert(0, self.clone());
        let mut turns = Vec::with_capacity(each.len());
        for reloads in &each {
            turns.push(reloads.0.turn.lock().await);
        }
        let reading = async {
            let mut all = Vec::new();
            for reloads in &each {
                all.append(&mut reloads.read().await?);
            }
            Ok::<_, Error>(all)
        };
        let late = |_| {
            Error::other(format!("the certificates and resources were not read within {READING:?}"))
        };
        let all = timeout(READING, reading).await.map_err(late)??;
        // A panic in one must not keep the others from being set.
        Ok(all.into_iter().map(contain).filter(Option::is_none).count())
    }

    async fn read(&self) -> Result<Vec<Set>> {
        let files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Reading files blocks, so it is done on a thread for blocking work.
        let mut all = vec![tokio::task::spawn_blocking(move || files.read()).await??];
        for read in self.resources_mut(|resources| resources.clone()) {
            all.push(read().await?);
        }
        Ok(all)
    }
}

/// What a server beside another one has to reload is reloaded with that one as long as this value
/// lives.
pub(in crate::server) struct Included {
    all: Reloads,
    guest: Reloads,
}

impl Drop for Included {
    fn drop(&mut self) {
        self.all.beside_mut(|beside| beside.retain(|one| !Arc::ptr_eq(&one.0, &self.guest.0)));
    }
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloads").finish_non_exhaustive()
    }
}

impl Files {
    fn read(self) -> Result<Set> {
        #[cfg(feature = "rustls")]
        {
            let read: Vec<_> =
                self.tls.iter().map(|(_, tls)| tls.read()).collect::<Result<_, _>>()?;
            Ok(Box::new(move || {
                self.tls.iter().zip(read).for_each(|((_, tls), config)| tls.set(config));
            }))
        }
        #[cfg(not(feature = "rustls"))]
        {
            let _ = self;
            Ok(Box::new(|| ()))
        }
    }
}
