//! The builder of the endpoint.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use ropewalk::endpoint::EndpointError;
use ropewalk::layer::{Histogram, TapLayer};
use ropewalk::server::{Serve, reload_fn};
use ropewalk::{ConnectionInfo, Endpoint, Handle, Result, Server};
use tokio::time::Instant;
use tower::service_fn;

use crate::app::{App, Hooks, Limit, Tapping, WrongTokens};
use crate::exposure::{Bound, check, closed};
use crate::history::{History, Noting};
use crate::http::{LAST, serve};
use crate::routes::router;
use crate::tap;
use crate::token::Token;

/// Where it listens if it is not told.
const DEFAULT: &str = "tcp:127.0.0.1:9901";

/// How many connections it has at most.
const CONNECTIONS: usize = 64;

/// How many TLS handshakes and PROXY headers may be under way.
const PREAMBLES: usize = 16;

/// An HTTP endpoint that shows and steers a server: its requests are listed
/// [with the crate](crate).
///
/// It listens on `tcp:127.0.0.1:9901` if [`listen`](Self::listen) is not called. An address that
/// other machines can reach is refused when it is bound, unless it is encrypted and there is a
/// [token](Self::token_file). Without a token the requests that need one are refused.
///
/// It has at most 64 connections. A request has 10 s for its head of at most 16 KiB and 5 s for its
/// body of at most 4 KiB; a connection ends after 60 s.
#[must_use = "it does nothing until `run` or `bind`"]
pub struct Admin {
    endpoints: Vec<Result<Endpoint, EndpointError>>,
    token_file: Option<PathBuf>,
    hosts: Vec<String>,
    hooks: Hooks,
}

impl Admin {
    /// The endpoint on `tcp:127.0.0.1:9901`, without a token.
    pub fn new() -> Self {
        Self { endpoints: Vec::new(), token_file: None, hosts: Vec::new(), hooks: Hooks::default() }
    }

    /// Listens here: a string such as `"unix:/run/example/admin.sock"` or `"tcp:127.0.0.1:9901"`,
    /// or an [`Endpoint`]. It can be called several times. The file of a Unix socket has the mode
    /// 600 if the endpoint names no other.
    pub fn listen<E>(mut self, endpoint: E) -> Self
    where
        E: TryInto<Endpoint, Error: Into<EndpointError>>,
    {
        self.endpoints.push(endpoint.try_into().map_err(Into::into));
        self
    }

    /// The file with the token, which requests show as `Authorization: Bearer TOKEN`: one line of
    /// 16 to 1024 printable characters. The file has to belong to the user of this process or to
    /// root, and only its owner may have access to it (mode 600 or 400). It is read when the
    /// endpoint is bound, and again with the resources of the server: by `POST /reload`,
    /// [`Handle::reload`], and SIGHUP if the server handles signals.
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// Answers requests for this host name, without a port, as well. Without this call the names
    /// are `localhost` and the IP address itself; other names are refused, because pages of other
    /// sites could be behind them.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Gives connections names in `/connections` and on the page, for example of the users that
    /// have logged in. It is called for each connection that is shown, and for all when names are
    /// searched.
    pub fn names(
        mut self,
        name: impl Fn(&ConnectionInfo) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.hooks.name = Some(Box::new(name));
        self
    }

    /// What `/metrics` answers, in Prometheus's text format: `render` of the handle that
    /// `metrics-exporter-prometheus` returns.
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.hooks.metrics = Some(Box::new(render));
        self
    }

    /// Shows this histogram, such as that of a [`CallLatencyLayer`](ropewalk::CallLatencyLayer).
    pub fn latency(mut self, name: impl Into<String>, calls: Histogram) -> Self {
        self.hooks.histograms.push((name.into(), calls));
        self
    }

    /// Shows a number that a layer or the service counts.
    pub fn counter(
        mut self,
        name: impl Into<String>,
        count: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.hooks.counters.push((name.into(), Box::new(count)));
        self
    }

    /// A limit that `POST /limits/NAME` sets, besides `max_connections`, which each server has.
    /// Values are at least 1.
    pub fn limit(
        mut self,
        name: impl Into<String>,
        get: impl Fn() -> usize + Send + Sync + 'static,
        set: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.limits.push(Limit { name: name.into(), get: Box::new(get), set: Box::new(set) });
        self
    }

    /// Lets requests with the token record connections of the server: `POST /tap/start`. The server
    /// has a clone of the layer. The files are made in this folder, which has to exist; only the
    /// user of this process can read them.
    pub fn tap(mut self, layer: TapLayer, folder: impl Into<PathBuf>) -> Self {
        self.hooks.tap = Some(Tapping::new(layer, folder.into()));
        self
    }

    /// Runs a server with this endpoint beside it. The endpoint is bound after those of the server,
    /// and ends after the server's last connection.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind), and those of the server.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped, the server and the endpoint stop, and their connections are aborted.
    pub async fn run(self, serve: Serve) -> Result {
        let handle = serve.handle();
        let serve = serve.bind().await?;
        let admin = self.bind(&handle).await?;
        let own = admin.handle();
        let watched = async {
            let ended = serve.await;
            own.drain(LAST);
            ended
        };
        // The endpoint goes on until `watched` ends it; its errors come second.
        let (ended, answered) = tokio::join!(watched, admin);
        ended.and(answered)
    }

    /// Binds the endpoint for a server that is run elsewhere, and returns the server of the
    /// endpoint: it answers while it is awaited and the other one runs, and until its own handle
    /// ends it. For a hot restart the other one has to be bound first.
    ///
    /// # Errors
    ///
    /// An endpoint that is invalid, can't be bound or may not be reached from other machines; a
    /// token file that can't be read, or that others can read.
    pub async fn bind(self, server: &Handle) -> Result<Serve> {
        let token = match self.token_file {
            Some(file) => Some(Arc::new(Token::read(file).await?)),
            None => None,
        };
        let mut endpoints = self.endpoints.into_iter().collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            endpoints.push(DEFAULT.parse()?);
        }
        let history = Arc::new(Mutex::new(History::default()));
        let has_token = token.is_some();
        let app = Arc::new(App {
            server: server.clone(),
            token: token.clone(),
            hosts: self.hosts,
            hooks: self.hooks,
            began: Instant::now(),
            history: Arc::clone(&history),
            bound: OnceLock::new(),
            wrong_tokens: WrongTokens::new(),
        });
        let noting = Noting::new(server.clone(), history);
        let mut admin = Server::new()
            .beside(server)
            .max_connections(CONNECTIONS)
            .max_preambles(PREAMBLES)
            .manage(noting);
        if let Some(token) = token {
            let read = Arc::clone(&token);
            let read = move || {
                let token = Arc::clone(&read);
                async move { token.read_again().await }
            };
            admin = admin.reload(reload_fn(read, move |value| token.replace(value)));
        }
        for endpoint in &endpoints {
            admin = admin.listen(closed(endpoint.clone()));
        }
        let router = router(Arc::clone(&app)).merge(tap::routes(Arc::clone(&app)));
        let shared = Arc::clone(&app);
        let service =
            service_fn(move |connection| serve(connection, Arc::clone(&shared), router.clone()));
        let serving = admin.serve(service).bind().await?;
        let handle = serving.handle();
        let mut bound = Vec::with_capacity(endpoints.len());
        for (endpoint, address) in endpoints.iter().zip(handle.addresses()) {
            check(endpoint, address, has_token)?;
            bound.push(Bound::new(endpoint, address));
        }
        // The cell is empty: it is of this call.
        drop(app.bound.set(bound));
        Ok(serving)
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("endpoints", &self.endpoints)
            .field("token_file", &self.token_file)
            .finish_non_exhaustive()
    }
}
