//! The server: its endpoints, the layers around a service of connections, and one accept loop or
//! one for each worker.

mod accept;
mod books;
mod budget;
mod drain;
mod handle;
mod limits;
mod restart;
mod run;
mod service;
mod services;

use std::fmt;
use std::io;
use std::num::NonZero;
use std::time::Duration;

#[cfg(feature = "cli")]
use ropewalk_middleware::BackgroundLog;
use ropewalk_middleware::{Addr, MakeRoom, Result};
use tower_layer::{Identity, Layer, Stack};

pub use self::books::counts::Counts;
pub use self::books::endpoints::EndpointInfo;
pub use self::books::table::EndpointState;
pub use self::budget::MemoryUse;
pub use self::drain::report::DrainReport;
pub use self::handle::Handle;
pub use self::restart::{Restart, RestartError};
pub use self::run::lifecycle::Lifecycle;
pub use self::run::reload::{Reload, ReloadFn, reload_fn};
pub use self::run::serve::Serve;
pub use self::service::ConnectionService;

use self::books::incidents::OnFailure;
use self::books::max::MaxConnections;
use self::books::shared::Shared;
use self::budget::default_budget;
use self::run::lifecycle::Lifecycles;
use self::run::notify::Notify;
use self::run::options::Options;
use self::run::reload::Reloads;
use self::run::serve::{OnListening, Plan, Planned};
use crate::endpoint::{Endpoint, EndpointError};
use crate::listener::preamble::{default_max_preambles, descriptors};

/// The name of the service of [`Server::serve`].
const MAIN: &str = "main";

/// How long a drain may take by default: 30 s.
const DRAIN: Duration = Duration::from_secs(30);

/// The builder of a server.
///
/// ```no_run
/// use ropewalk::{Bytes, ConnectionLimitLayer, LogLayer, RawBytes, Result, Server, framed, reply_fn};
///
/// #[tokio::main]
/// async fn main() -> Result {
///     Server::new()
///         .listen("tcp:127.0.0.1:8007")
///         .listen("unix:/run/echo.sock?mode=660")
///         .layer(LogLayer::new())
///         .layer(ConnectionLimitLayer::new(100).refuse_with("Too many connections, try later\r\n"))
///         .signals()
///         .serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)))
///         .await
/// }
/// ```
#[must_use = "a server does nothing until `serve` is called and awaited"]
pub struct Server<L = Identity> {
    endpoints: Vec<Result<Endpoint, EndpointError>>,
    /// For each endpoint the number of its service; `None` for that of `serve`.
    of: Vec<Option<usize>>,
    services: Vec<Planned>,
    layer: L,
    lifecycles: Lifecycles,
    reloads: Reloads,
    max_connections: Option<usize>,
    make_room: Option<MakeRoom>,
    max_preambles: Option<usize>,
    memory: Option<usize>,
    options: Options,
    on_listening: Option<OnListening>,
    on_failure: Option<OnFailure>,
}

impl Server {
    /// A server without endpoints or layers.
    pub fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            of: Vec::new(),
            services: Vec::new(),
            layer: Identity::new(),
            lifecycles: Lifecycles::default(),
            reloads: Reloads::default(),
            max_connections: None,
            make_room: Some(MakeRoom::new()),
            max_preambles: None,
            memory: None,
            options: Options {
                signals: false,
                drain: DRAIN,
                grace: Duration::ZERO,
                restart: None,
                beside: None,
                notify: Notify::default(),
                exit: None,
                workers: None,
                #[cfg(feature = "cli")]
                log: None,
            },
            on_listening: None,
            on_failure: None,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> Server<L> {
    /// Adds an endpoint: a string such as `"tcp:127.0.0.1:8007"` or `"unix:/run/x.sock?mode=660"`,
    /// or an [`Endpoint`]. It can be called any number of times, with endpoints of any kinds. A
    /// string that is not an endpoint causes an error when the server binds, before it listens
    /// anywhere.
    pub fn listen<E>(mut self, endpoint: E) -> Self
    where
        E: TryInto<Endpoint, Error: Into<EndpointError>>,
    {
        self.add(endpoint, None);
        self
    }

    /// Adds a layer around the service of connections. The first one added sees a connection first.
    ///
    /// Layers here see whole connections: tower's `TimeoutLayer` added here ends every connection
    /// after its time. A layer that sets a deadline for each request goes around the service inside
    /// `framed`.
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        Server {
            endpoints: self.endpoints,
            of: self.of,
            services: self.services,
            layer: Stack::new(layer, self.layer),
            lifecycles: self.lifecycles,
            reloads: self.reloads,
            max_connections: self.max_connections,
            make_room: self.make_room,
            max_preambles: self.max_preambles,
            memory: self.memory,
            options: self.options,
            on_listening: self.on_listening,
            on_failure: self.on_failure,
        }
    }

    /// Adds a resource that starts and stops with the server. Resources start in the order of these
    /// calls, and stop in reverse.
    pub fn manage(mut self, lifecycle: impl Lifecycle) -> Self {
        self.lifecycles.push(lifecycle);
        self
    }

    /// Reloads the certificates of this configuration, which
    /// [`Session::upgrade_tls`](crate::Session::upgrade_tls) uses, together with those of the
    /// endpoints, which needn't be added. See [`Handle::reload`].
    #[cfg(feature = "rustls")]
    pub fn reload_tls(self, tls: crate::TlsConfig) -> Self {
        self.reloads.add(None, tls);
        self
    }

    /// Drains on SIGTERM and SIGINT; a second signal aborts the connections that are left. The
    /// first signal in a drain that a handle or a hot restart has begun shortens it to at most
    /// [`drain_within`](Self::drain_within) from then on. With [`hot_restart`](Self::hot_restart),
    /// SIGUSR2 restarts. If the server has certificates or other resources that can be read again,
    /// SIGHUP reloads them as [`Handle::reload`] does. Signals don't end the process (but see
    /// [`exit_if_stuck`](Self::exit_if_stuck)); the server's future resolves. The runtime keeps
    /// catching the signals after that, so a program that goes on for long should listen for them
    /// with `tokio::signal`.
    ///
    /// # Panics
    ///
    /// When the server is bound or awaited in a runtime without I/O, such as that of a
    /// `testing::Simulation`. So call this in `main`, and not in the code that tests use: see "A
    /// public port" in the book's chapter on deployment.
    pub fn signals(mut self) -> Self {
        self.options.signals = true;
        self
    }

    /// Allows the server to be restarted without losing a connection: by [`Handle::restart`], or by
    /// SIGUSR2 with [`signals`](Self::signals).
    ///
    /// A restart starts a new process from the binary that is then at the old one's path. The new
    /// process builds the same server; for each endpoint that the old server has too, it receives
    /// the old server's socket instead of binding. When it has bound all endpoints and started its
    /// lifecycles, the old process stops accepting and drains, as on a signal. Peers that have
    /// connected by then are served by the old process; they have up to 2 s to begin a handshake or
    /// a PROXY header, and 5 s for their first bytes. If the new process ends, is not ready in time
    /// or doesn't run such a server, the old one goes on unchanged. The old process closes the
    /// sockets of endpoints that the new one does not have. Changes made through the handle last:
    /// an endpoint that was added is in the new process as well, one that was removed is not, and a
    /// paused one is still paused.
    ///
    /// The new process has this process's environment, working directory, user, standard output and
    /// standard error; its standard input is empty. It is a child of this process until this one
    /// ends. Only one server of a process can be restarted. The endpoints must be TCP, Unix or
    /// inherited sockets; an endpoint made from a [`Listener`](crate::endpoint::Listener) can be
    /// handed over only if it implements [`hand_over`](crate::endpoint::Listener::hand_over).
    pub fn hot_restart(mut self, restart: Restart) -> Self {
        self.options.restart = Some(restart);
        self
    }

    /// Sends the messages of `sd_notify(3)` to the service manager, if `NOTIFY_SOCKET` names one:
    /// `READY=1` when the server accepts, `STOPPING=1` before a drain closes its listeners,
    /// `RELOADING=1` during a reload by SIGHUP and in a hot restart, with the new `MAINPID`, and
    /// `WATCHDOG=1` twice in each watchdog interval. The last is sent from a task on this runtime,
    /// so the manager notices a blocked runtime. (Feature `systemd`.)
    #[cfg(feature = "systemd")]
    pub fn sd_notify(mut self) -> Self {
        self.options.notify = Notify::on();
        self
    }

    /// Ends the process with this exit code if connections are left two seconds after the drain's
    /// deadline. That happens only when handlers block their threads, in a loop or a system call. A
    /// library can't end such a handler, and a runtime with such a thread can't be dropped, so the
    /// process would stay for ever. Dropping the server's future never ends the process, and under
    /// a paused clock (`tokio::time::pause`) this setting has no effect.
    ///
    /// A thread of the server's own keeps the time and receives the signals, so this works even if
    /// all threads of the runtime are blocked, for example by a log that is not read. Choose a code
    /// that tells this exit from others: 75 is `EX_TEMPFAIL`. The process ends without dropping its
    /// values.
    pub fn exit_if_stuck(mut self, code: i32) -> Self {
        self.options.exit = Some(code);
        self
    }

    /// How long a drain begun by a signal or a restart may take; 30 s by default.
    pub fn drain_within(mut self, deadline: Duration) -> Self {
        self.options.drain = deadline;
        self
    }

    /// Accepts and serves on `n` workers: threads of the server's own, each with its own runtime. 0
    /// means one for each processor that this process may use. Without this setting, the runtime on
    /// which the server is awaited does all the work.
    ///
    /// A TCP endpoint has a socket for each worker (`SO_REUSEPORT`), and the kernel distributes
    /// connections among them by a hash of their addresses. The single socket of any other endpoint
    /// is shared, and the first worker to wake gets the connection. TCP sockets are shared in the
    /// same way on systems whose kernel doesn't distribute connections (all but Linux). A
    /// connection stays on the thread that accepted it: no task moves, and no thread takes over
    /// another one's work. A few busy connections may therefore share one worker while the others
    /// are idle, and a handler that blocks or computes delays all connections of its worker,
    /// including those in its backlog. The shared runtime evens out both. Which is faster depends
    /// on the load: `benches/peers/run threads` measures both.
    ///
    /// All workers share the service with its layers, the limits, the counters, the drain with its
    /// deadline, and the handle. Under a limit, each worker may hold an accepted connection that
    /// waits for a slot, and a freed slot is most likely taken by the worker that freed it; a limit
    /// should be several times the number of workers. A hot restart hands over all sockets; the new
    /// process may have a different number of workers, or use no workers. Tasks that a handler
    /// spawns run on its worker and end with the server. Signals, lifecycles and the watchdog run
    /// on the runtime on which the server is awaited. If a worker dies (not by a handler's panic,
    /// which ends only its connection), the server drains and ends with an error.
    ///
    /// # Errors
    ///
    /// An endpoint made from a [`Listener`](crate::endpoint::Listener), or in memory, can't be
    /// shared, so binding fails. Threads and runtimes are made when the server is awaited; if one
    /// can't be made, the server ends with that error before it serves a connection.
    ///
    /// ```no_run
    /// # use ropewalk::{Bytes, RawBytes, Server, framed, reply_fn};
    /// # async fn doc() -> ropewalk::Result {
    /// Server::new()
    ///     .listen("tcp:0.0.0.0:8007")
    ///     .workers(4)
    ///     .serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)))
    ///     .await
    /// # }
    /// ```
    pub fn workers(mut self, n: usize) -> Self {
        let n =
            if n == 0 { std::thread::available_parallelism().map_or(1, NonZero::get) } else { n };
        self.options.workers = Some(n);
        self
    }

    /// Keeps a log open until the server has ended.
    #[cfg(feature = "cli")]
    pub(crate) fn keep_log(mut self, log: Option<BackgroundLog>) -> Self {
        self.options.log = log;
        self
    }

    /// Sets a hook that is called with the bound addresses when the server begins to accept. After
    /// a hot restart these are also those of the endpoints that were added to the old process,
    /// without those that were removed there.
    pub fn on_listening(self, hook: impl FnOnce(&[Addr]) + Send + 'static) -> Self {
        self.on_bound(|_, addresses| hook(addresses))
    }

    /// The same; the hook also receives the endpoints, each as a text with its scheme and address.
    pub(crate) fn on_bound(
        mut self,
        hook: impl FnOnce(&[String], &[Addr]) + Send + 'static,
    ) -> Self {
        self.on_listening = Some(Box::new(hook));
        self
    }

    /// Sets a hook that is called when a listener fails for good: its socket was closed or shut
    /// down, or it has failed for ten seconds with errors other than a shortage of descriptors or
    /// memory. The server goes on with its other listeners, and tries this one ten times a second;
    /// any further response (an alarm, a drain) is up to the hook. The hook runs in the accept
    /// loop, so it must not block. The failure is logged as an error in any case.
    pub fn on_listener_failure(
        mut self,
        hook: impl Fn(&Addr, &io::Error) + Send + Sync + 'static,
    ) -> Self {
        self.on_failure = Some(Box::new(hook));
        self
    }

    /// Makes the server from this builder and the service that answers: `framed(…)`, `session(…)`,
    /// or any `Service<Connection>`.
    ///
    /// The result is a `Future` that runs the server. [`Serve::bind`] binds first, so that the
    /// addresses are known; [`Serve::handle`] returns a handle.
    pub fn serve<S>(mut self, service: S) -> Serve
    where
        L: Layer<S>,
        L::Service: ConnectionService,
    {
        let main = self.services.len();
        self.services.push(Planned::new(MAIN, self.layer.layer(service)));
        self.plan(Some(main))
    }

    /// Makes the server from this builder, when all of its services were added by
    /// [`serve_on`](Self::serve_on).
    pub fn run(self) -> Serve {
        self.plan(None)
    }

    /// `main` is the number of the service that the endpoints of `listen` belong to.
    fn plan(self, main: Option<usize>) -> Serve {
        let has_preambles = self.endpoints.iter().flatten().any(Endpoint::has_preamble);
        let descriptors = descriptors();
        let preambles = self.max_preambles.unwrap_or_else(|| default_max_preambles(descriptors));
        let beside = |preambles| limits::max_connections(descriptors, preambles);
        let max = match self.max_connections {
            Some(max) => MaxConnections::set_to(max),
            None if has_preambles => MaxConnections::set_to(beside(preambles)),
            None => MaxConnections::default_of(beside(0), beside(preambles)),
        };
        let memory = self.memory.unwrap_or_else(default_budget);
        let services = self.services.len();
        let restarts = self.options.restart.is_some();
        let shared =
            Shared::new(max, self.make_room, preambles, memory, restarts, services, self.reloads);
        if let Some(hook) = self.on_failure {
            shared.incidents.on_failure(hook);
        }
        let plan = Plan {
            endpoints: self.endpoints,
            of: self.of.into_iter().map(|service| service.or(main)).collect(),
            services: self.services,
            lifecycles: self.lifecycles,
            options: self.options,
            on_listening: self.on_listening,
        };
        Serve::new(plan, shared)
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
