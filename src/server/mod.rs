//! The server: endpoints in, layers around a service of connections, one accept loop or one on each worker.

mod accept;
mod books;
mod budget;
mod deadline;
mod drain;
mod front;
mod gate;
mod handle;
mod incidents;
mod lifecycle;
mod limits;
mod lobby;
mod notify;
mod registry;
mod reload;
mod report;
mod restart;
mod run;
mod serve;
mod service;
mod shared;
mod signals;
mod stalls;
mod task;
mod workers;

use std::fmt;
use std::io;
use std::num::NonZero;
use std::time::Duration;

#[cfg(feature = "cli")]
use ropewalk_middleware::BackgroundLog;
use ropewalk_middleware::{Addr, MakeRoom};
use tower_layer::{Identity, Layer, Stack};

pub use self::budget::MemoryUse;
pub use self::handle::{Counts, Handle};
pub use self::lifecycle::Lifecycle;
pub use self::report::DrainReport;
pub use self::restart::{Restart, RestartError};
pub use self::serve::Serve;
pub use self::service::ConnectionService;

use self::budget::default_budget;
use self::incidents::OnFailure;
use self::lifecycle::Lifecycles;
use self::notify::Notify;
use self::reload::Reloads;
use self::run::Options;
use self::serve::{OnListening, Plan};
use self::shared::Shared;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::Result;
use crate::listener::preamble::{default_max_preambles, descriptors};

/// How long a drain may take unless told otherwise: 30 s.
const DRAIN: Duration = Duration::from_secs(30);

/// A server in the making.
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
    /// Adds an endpoint: a string such as `"tcp:127.0.0.1:8007"` or `"unix:/run/x.sock?mode=660"`, or an [`Endpoint`].
    /// As often as you like, of any kinds. A string that is none fails when the server binds, before anything listens.
    pub fn listen<E>(mut self, endpoint: E) -> Self
    where
        E: TryInto<Endpoint, Error: Into<EndpointError>>,
    {
        self.endpoints.push(endpoint.try_into().map_err(Into::into));
        self
    }

    /// Adds a layer around the service of connections. The first one added sees a connection first.
    ///
    /// Layers here see whole connections: a stock `TimeoutLayer` in this place ends every connection after its time. A
    /// deadline for each request belongs around the service inside `framed`.
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        Server {
            endpoints: self.endpoints,
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

    /// Starts and stops something with the server. Starts run in this order, stops in reverse.
    pub fn manage(mut self, lifecycle: impl Lifecycle) -> Self {
        self.lifecycles.push(lifecycle);
        self
    }

    /// Reloads these certificates together with those of the endpoints, which needn't be named here: for a configuration
    /// that [`Session::upgrade_tls`](crate::Session::upgrade_tls) uses. See [`Handle::reload`].
    #[cfg(feature = "tls")]
    pub fn reload_tls(self, tls: crate::TlsConfig) -> Self {
        self.reloads.add(tls);
        self
    }

    /// Drains on SIGTERM and SIGINT; a second one aborts what is left. The first one in a drain that a handle or a hot
    /// restart has begun leaves it [`drain_within`](Self::drain_within) from then on at most. With [`hot_restart`](Self::hot_restart) SIGUSR2
    /// restarts, and where there are certificates that can be read again SIGHUP does that, as [`Handle::reload`] would.
    /// The process is never ended from here (but see [`exit_if_stuck`](Self::exit_if_stuck)): the server's future
    /// resolves. The runtime keeps the signals even after that; whoever goes on for long then listens for them with
    /// `tokio::signal`.
    pub fn signals(mut self) -> Self {
        self.options.signals = true;
        self
    }

    /// Lets the server be restarted without a connection lost: by [`Handle::restart`], or by SIGUSR2 with
    /// [`signals`](Self::signals).
    ///
    /// A new process is started, of the binary that is at the old one's path by then. It builds the same server, and
    /// where one of its endpoints is one of the old server's it is handed that socket in place of binding. When it has
    /// bound all and started its lifecycles the old one stops accepting and drains, as by a signal; who has connected by
    /// then is served by it, and is given up to 2 s for a handshake or a PROXY header and 5 s for its first words. A new
    /// process that ends, that is not ready in time or that is no such server leaves the old one as it was. Sockets of its
    /// endpoints that the new process does not have are closed.
    ///
    /// The new process has this one's environment, working directory, user and standard output and error; its standard
    /// input is empty. It is a child of this process until that one ends. A process has one server that is restarted.
    /// The endpoints are TCP, Unix or inherited sockets: one made of a [`Listener`](crate::Listener) can't be handed on
    /// unless that implements [`hand_over`](crate::Listener::hand_over).
    pub fn hot_restart(mut self, restart: Restart) -> Self {
        self.options.restart = Some(restart);
        self
    }

    /// Tells the service manager, as `sd_notify(3)` has it, if there is one (`NOTIFY_SOCKET`): `READY=1` when the server
    /// accepts, `STOPPING=1` before a drain closes its listeners, `RELOADING=1` while SIGHUP has it reload and in a
    /// hot restart, with the new `MAINPID`, and `WATCHDOG=1` twice in the time it asks for, from a task on this runtime: a
    /// runtime that is blocked is found out. (Feature `systemd`.)
    #[cfg(feature = "systemd")]
    pub fn sd_notify(mut self) -> Self {
        self.options.notify = Notify::on();
        self
    }

    /// Ends the process with this code when, two seconds after the drain's deadline, connections are still there. That
    /// takes handlers that block their threads, in a loop or a system call: no library can end those, nor can a runtime
    /// with such a thread be dropped, and so the process would stay for ever. It never acts because the server's future was
    /// dropped, and not under a paused clock (`tokio::time::pause`).
    ///
    /// A thread of the server's own keeps the time and hears the signals, so this works with every thread of the runtime
    /// blocked, by a log that is not read for example. Choose a code that says so: 75 is `EX_TEMPFAIL`. No value is dropped on
    /// this way out.
    pub fn exit_if_stuck(mut self, code: i32) -> Self {
        self.options.exit = Some(code);
        self
    }

    /// How long a drain begun by a signal or a restart may take; 30 s by default.
    pub fn drain_within(mut self, deadline: Duration) -> Self {
        self.options.drain = deadline;
        self
    }

    /// How long a drain goes on accepting before it closes the listeners; 0 by default. It is for load balancers that take
    /// a while to hear of it: they are told at once (`STOPPING=1` with `sd_notify`, [`Handle::is_draining`] for a
    /// readiness check of your own), and whom they still send is served. Only then are connections told to finish.
    ///
    /// It is a part of the drain's time: what is not longer leaves connections none to finish in. A second signal ends it, a stop and a hot restart
    /// have none.
    pub fn readiness_grace(mut self, time: Duration) -> Self {
        self.options.grace = time;
        self
    }

    /// The most connections open at once, over all endpoints; more stay in the backlog. By default 10 000, or what the
    /// process's descriptor limit allows if that is less: 80 % of it less 64, or of a small limit half. Where endpoints have
    /// TLS or PROXY headers, [`max_preambles`](Self::max_preambles) is taken off that.
    ///
    /// When all places are taken and another connection waits, one may be aborted for it: see
    /// [`make_room`](Self::make_room). For a limit that refuses, see [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// Which connections make room when [`max_connections`](Self::max_connections) are open and another one waits; all the
    /// rules of [`MakeRoom`], unless told otherwise. `None` turns them off: then those that wait do so until a connection ends by
    /// itself, and silent peers can keep all others out.
    ///
    /// The one that makes room is broken (the peer sees a reset) and counted by the reason of its rule; only when it is gone is
    /// the new one let in, so the cap is never exceeded. To find those that have a right to a place, a full server accepts up to
    /// 64 connections (on each worker; fewer where descriptors are few) that wait. If one of them has waited for 250 ms and more come, the address with the most
    /// of them loses one, with the reason [`NoRoom`](crate::CloseReason::NoRoom).
    ///
    /// ```
    /// use ropewalk::{MakeRoom, Server};
    ///
    /// // Subscribers may listen for as long as they like, even if others wait.
    /// let server = Server::new().listen("tcp:0.0.0.0:8007").make_room(MakeRoom::new().idle(None));
    /// ```
    pub fn make_room(mut self, rules: impl Into<Option<MakeRoom>>) -> Self {
        self.make_room = rules.into();
        self
    }

    /// Accepts and serves on so many threads of the server's own, each with a runtime for itself; 0 is one for each
    /// processor the system lends this process. Without this the runtime the server is awaited on does it all.
    ///
    /// A TCP endpoint has a socket for each worker (`SO_REUSEPORT`), and the kernel deals connections out among them by a
    /// hash of their addresses. The one socket of any other endpoint is shared, and the first worker to wake has the
    /// connection; where the kernel doesn't deal (anywhere but on Linux) so is TCP's. A connection stays on the thread that
    /// accepted it: no task moves, and no thread takes over another one's work. So a few busy connections may meet on one
    /// worker while the others have nothing to do, and a handler that blocks or computes holds up all that is on its worker,
    /// who waits in its backlog too. The shared runtime evens both out. Which is faster depends on the load: `benches/peers/run
    /// threads` measures both.
    ///
    /// All else is one server's: the service with its layers, the caps, the counters, the drain and its deadline, the
    /// handle. A connection may be accepted on each worker while it waits for room under a cap, and a worker whose
    /// connection makes room is the likeliest to fill it: a cap should be several times the number of workers. A hot restart hands over all the sockets; the new process may have
    /// another number of workers, or none. What a handler spawns runs on its worker and ends with the server.
    /// Signals, lifecycles and the watchdog are tended by the runtime the server is awaited on. A worker that dies (not by a
    /// handler's panic, which ends its connection only) has the server drain and end with an error.
    ///
    /// # Errors
    ///
    /// An endpoint made of a [`Listener`](crate::Listener), or in memory, can't be shared, so binding fails. Threads and runtimes
    /// are made when the server is awaited; if one can't be, it ends with that error and has served nobody.
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
        let n = if n == 0 { std::thread::available_parallelism().map_or(1, NonZero::get) } else { n };
        self.options.workers = Some(n);
        self
    }

    /// Keeps a log open until the server is over.
    #[cfg(feature = "cli")]
    pub(crate) fn keep_log(mut self, log: Option<BackgroundLog>) -> Self {
        self.options.log = log;
        self
    }

    /// Called with the bound addresses when the server begins to accept.
    pub fn on_listening(mut self, hook: impl FnOnce(&[Addr]) + Send + 'static) -> Self {
        self.on_listening = Some(Box::new(hook));
        self
    }

    /// Called when a listener fails for good: somebody closed or shut down its socket, or it has failed for ten seconds with
    /// errors that are not for want of descriptors or memory. The server goes on with its other listeners, and asks this one
    /// ten times a second whether it accepts again; what is to be done besides (an alarm, a drain) is up to the hook. It runs in
    /// the accept loop, so it must not block. The event is logged as an error in any case.
    pub fn on_listener_failure(mut self, hook: impl Fn(&Addr, &io::Error) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(Box::new(hook));
        self
    }

    /// The server, with the service that is to answer: `framed(…)`, `session(…)`, or any `Service<Connection>`.
    ///
    /// The result is a plain `Future`; [`Serve::bind`] gives the addresses first, [`Serve::handle`] the handle.
    pub fn serve<S>(self, service: S) -> Serve
    where
        L: Layer<S>,
        L::Service: ConnectionService,
    {
        let has_preambles = self.endpoints.iter().flatten().any(Endpoint::has_preamble);
        let descriptors = descriptors();
        let preambles = self.max_preambles.unwrap_or_else(|| default_max_preambles(descriptors));
        let besides = if has_preambles { preambles } else { 0 };
        let max = self.max_connections.unwrap_or_else(|| limits::max_connections(descriptors, besides));
        let memory = self.memory.unwrap_or_else(default_budget);
        let shared = Shared::new(max, self.make_room, preambles, memory, self.options.restart.is_some(), self.reloads);
        if let Some(hook) = self.on_failure {
            shared.incidents.on_failure(hook);
        }
        let plan = Plan {
            endpoints: self.endpoints,
            lifecycles: self.lifecycles,
            options: self.options,
            on_listening: self.on_listening,
        };
        Serve::new(plan, self.layer.layer(service), shared)
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
