//! `--listen ENDPOINT`, `--workers N`, `--log-level LEVEL` and `--idle SECONDS` for a program's
//! command line (feature `cli`).

use std::io::{Write, stderr};
use std::time::Duration;

use clap::Parser;
use ropewalk_middleware::event::aside;
use ropewalk_middleware::event::tracing::dispatcher::has_been_set;
use ropewalk_middleware::{BackgroundLog, ReadDeadlineLayer, ReadDeadlines};
use tower_layer::{Identity, Stack};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::endpoint::{Endpoint, SCHEMES};
use crate::server::{Restart, Server};

/// The flags of a server; flatten them into your own, or parse them alone with
/// `ServerArgs::parse()`.
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
// Without this, `--help` would describe the program with the text above.
#[command(about = None, long_about = None)]
pub struct ServerArgs {
    #[arg(long = "listen", value_name = "ENDPOINT", default_value = "tcp:127.0.0.1:8007", help = listen_help())]
    endpoints: Vec<Endpoint>,
    /// Accept and serve on N threads with a runtime each (0: one for each processor), instead of on
    /// one runtime
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// What is logged on standard error: off, error, warn, info, debug or trace, or a level for
    /// each part, as in info,ropewalk::frame=debug
    #[arg(long, value_name = "LEVEL", default_value = "info,ropewalk::server=warn")]
    log_level: Targets,
    /// How many seconds a peer may take for a frame, and between two frames; 0 for no deadline
    #[arg(long, visible_alias = "patience", value_name = "SECONDS")]
    idle: Option<u32>,
    #[arg(skip)]
    default_idle: Option<Duration>,
}

fn listen_help() -> String {
    let forms: Vec<&str> = SCHEMES.iter().map(|(_, forms)| *forms).collect();
    format!("Where to listen, as often as you like: {}; port 0 takes a free one", forms.join(", "))
}

impl ServerArgs {
    /// The same with each endpoint changed, for example given a certificate.
    #[must_use]
    pub fn map_endpoints(mut self, f: impl FnMut(Endpoint) -> Endpoint) -> Self {
        self.endpoints = self.endpoints.into_iter().map(f).collect();
        self
    }

    /// Writes the log to standard error, at the level of `--log-level`, until this is dropped: keep
    /// it to the end of `main`. It is a [`BackgroundLog`], so a log that can't be written, or is
    /// not read, does not stop the server.
    ///
    /// [`server`](Self::server) does this too, until the server has ended. Call it in a program
    /// that logs before or after that. If the program has a subscriber already, it stays.
    pub fn log(&self) -> BackgroundLog {
        let log = BackgroundLog::to(stderr());
        let lines = fmt::layer().with_writer(log.writer()).log_internal_errors(false);
        drop(tracing_subscriber::registry().with(lines).with(self.log_level.clone()).try_init());
        log
    }

    /// Sets how long the program waits for a peer if the command line has no `--idle`. The default
    /// is no deadline.
    ///
    /// ```
    /// # use clap::Parser;
    /// # use ropewalk::cli::ServerArgs;
    /// use std::time::Duration;
    ///
    /// let seconds = Duration::from_secs;
    /// let args = |line: &str| ServerArgs::parse_from(line.split(' ')).idle_or(seconds(30));
    /// assert_eq!(args("dns").idle(), Some(seconds(30)));
    /// assert_eq!(args("dns --idle 5").idle(), Some(seconds(5)));
    /// assert_eq!(args("dns --idle 0").idle(), None);
    /// ```
    #[must_use]
    pub fn idle_or(mut self, time: Duration) -> Self {
        self.default_idle = Some(time);
        self
    }

    /// How long the program waits for a peer: [`server`](Self::server) uses it as the deadline for
    /// the first frame, for each frame and between two frames ([`ReadDeadlineLayer`]). `None` means
    /// no such deadline.
    pub fn idle(&self) -> Option<Duration> {
        let given = self.idle.map(|seconds| Duration::from_secs(seconds.into()));
        given.or(self.default_idle).filter(|time| !time.is_zero())
    }

    /// A server on these endpoints, with [signals](Server::signals) and [hot
    /// restart](Server::hot_restart) on, with the deadlines of [`idle`](Self::idle), and with the
    /// [log](Self::log) on from here until the server has ended; with the feature `systemd` it
    /// reports its state to the [service manager](Server::sd_notify). Once it accepts connections,
    /// it prints a line for each endpoint on standard error: `listening on tcp:127.0.0.1:8007`, or
    /// `listening on tls:127.0.0.1:8007` if it is encrypted.
    ///
    /// A program with its own log has to install that log first.
    pub fn server(self) -> Server<Stack<ReadDeadlineLayer, Identity>> {
        let log = (!has_been_set()).then(|| self.log());
        let idle = self.idle();
        let deadlines =
            idle.map(|time| ReadDeadlines::default().first_frame(time).frame(time).idle(time));
        let server =
            self.endpoints.into_iter().fold(Server::new(), Server::listen).layer(deadlines.into());
        let server = match self.workers {
            Some(n) => server.workers(n),
            None => server,
        };
        #[cfg(feature = "systemd")]
        let server = server.sd_notify();
        server.keep_log(log).signals().hot_restart(Restart::new()).on_bound(|endpoints, _| {
            let text: String =
                endpoints.iter().map(|endpoint| format!("listening on {endpoint}\n")).collect();
            // The server serves even if standard error is closed or not read.
            let line = text.clone();
            if !aside(move || drop(stderr().write_all(line.as_bytes()))) {
                drop(stderr().write_all(text.as_bytes()));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::ServerArgs;

    /// A program with flags that have common names.
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        server: ServerArgs,
        #[arg(long)]
        log: bool,
        #[arg(long, default_value_t = 100)]
        max: usize,
    }

    #[test]
    fn a_program_may_have_a_flag_for_its_own_log() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from([
            "echo",
            "--log",
            "--log-level",
            "warn",
            "--max",
            "3",
            "--workers",
            "2",
        ]);
        assert_eq!((cli.log, cli.max, cli.server.workers), (true, 3, Some(2)));
        assert_eq!(cli.server.log_level.to_string(), "warn");
        assert!(!Cli::parse_from(["echo"]).log);
    }
}
