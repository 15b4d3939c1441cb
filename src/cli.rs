//! `--listen ENDPOINT` and `--workers N` for a program's command line (feature `cli`).

use std::io::{Write, stderr};

use clap::Parser;

use crate::endpoint::Endpoint;
use crate::server::{Restart, Server};

/// The flags of a server; flatten them into your own, or parse them alone with `ServerArgs::parse()`.
///
/// ```
/// use clap::Parser;
/// use ropewalk::cli::ServerArgs;
///
/// #[derive(Parser)]
/// struct Cli {
///     #[command(flatten)]
///     server: ServerArgs,
///     /// The most connections served at once.
///     #[arg(long, default_value_t = 100)]
///     max: usize,
/// }
///
/// let cli = Cli::parse_from(["echo", "--listen", "tcp:127.0.0.1:0", "--listen", "unix:/run/echo.sock?mode=660"]);
/// let server = cli.server.server();
/// # let _ = server;
/// ```
#[derive(Parser, Clone, Debug)]
// Or the text above would become what `--help` says of the program.
#[command(about = None, long_about = None)]
pub struct ServerArgs {
    /// Where to listen, as often as you like: tcp:PORT, tcp:HOST:PORT, tls:HOST:PORT?cert=FILE&key=FILE, unix:PATH[?mode=660],
    /// unix:@NAME, systemd:NAME, fd:N; port 0 takes a free one
    #[arg(long = "listen", value_name = "ENDPOINT", default_value = "tcp:127.0.0.1:8007")]
    endpoints: Vec<Endpoint>,
    /// Accept and serve on N threads with a runtime each, 0 for one a processor, in place of one runtime for all
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

impl ServerArgs {
    /// The same with each endpoint changed: given a certificate, say.
    #[must_use]
    pub fn map_endpoints(mut self, f: impl FnMut(Endpoint) -> Endpoint) -> Self {
        self.endpoints = self.endpoints.into_iter().map(f).collect();
        self
    }

    /// A server on these endpoints, with [signals](Server::signals) and [hot restart](Server::hot_restart) on; with the
    /// feature `systemd` it tells the [service manager](Server::sd_notify) how it is. Once it accepts it prints a line for each
    /// endpoint on standard error: `listening on tcp:127.0.0.1:8007`, or `listening on tls:127.0.0.1:8007` if it is encrypted.
    pub fn server(self) -> Server {
        let endpoints = self.endpoints.clone();
        let server = self.endpoints.into_iter().fold(Server::new(), Server::listen);
        let server = match self.workers {
            Some(n) => server.workers(n),
            None => server,
        };
        #[cfg(feature = "systemd")]
        let server = server.sd_notify();
        server.signals().hot_restart(Restart::new()).on_listening(move |addresses| {
            for (endpoint, address) in endpoints.iter().zip(addresses) {
                // A standard error that is closed is no reason not to serve.
                drop(writeln!(stderr(), "listening on {}", endpoint.bound_to(address)));
            }
        })
    }
}
