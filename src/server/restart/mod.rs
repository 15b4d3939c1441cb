//! Hot restart: a new process takes over the listening sockets, and only then does the old one
//! drain.
//!
//! The old process starts the new one with one end of a socket pair as its standard input, and
//! marks that in its environment. These messages follow, in this order: the new one's greeting with
//! the version of this protocol; the endpoints and their listening sockets; the new one's message
//! that it is ready and which sockets it has taken; the old one's message that these belong to the
//! new one now; and the new one's confirmation. Until that confirmation the old process serves, and
//! a failure of the new one ends only the new one.

mod beside;
mod error;
mod messages;
mod predecessor;
mod successor;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

pub use self::error::RestartError;

pub(super) use self::beside::{Beside, GivenUp, Registered};
pub(super) use self::messages::ListedEndpoint;
pub(super) use self::predecessor::{Attempt, NewProcess, Passed, RestartStep, start};
pub(super) use self::successor::{InheritedEndpoint, Takeover};

/// How long a new process may take to be ready by default: 30 s.
const READY: Duration = Duration::from_secs(30);

/// The variable that tells the new process that it takes over: the version of the protocol, and the
/// process that started it. A process that inherits it from the new one sees by that number that it
/// isn't the intended one.
const VARIABLE: &str = "ROPEWALK_RESTART";

/// The options of a hot restart: the program to start, and how long it may take to be ready.
///
/// ```
/// use std::time::Duration;
/// use ropewalk::server::Restart;
/// use ropewalk::{RawBytes, Server, framed, reply_fn};
///
/// let server = Server::new()
///     .listen("tcp:127.0.0.1:8007")
///     .signals()
///     .hot_restart(Restart::new().ready_within(Duration::from_secs(10)))
///     .serve(framed(RawBytes, reply_fn(|bytes: ropewalk::Bytes| bytes)));
/// # drop(server);
/// ```
#[derive(Clone, Debug)]
pub struct Restart {
    program: PathBuf,
    args: Vec<OsString>,
    ready_within: Duration,
}

impl Restart {
    /// Starts the program as which this process was started, with the same arguments. If the binary
    /// or a symbolic link was replaced since, the replacement is started. It has 30 s to be ready.
    pub fn new() -> Self {
        Self { program: own_program(), args: env::args_os().skip(1).collect(), ready_within: READY }
    }

    /// Starts another program. It has to be a server of this crate itself, not a script around one,
    /// unless the script ends with `exec`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = path.into();
        self
    }

    /// Sets other arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long the new process may take from its start until it is ready to accept, with its
    /// endpoints bound and its lifecycles started. A process that takes longer is killed.
    #[must_use]
    pub fn ready_within(mut self, time: Duration) -> Self {
        self.ready_within = time;
        self
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self::new()
    }
}

/// The path by which this process was started, made absolute so that it stays valid after a change
/// of the working directory. The system's path of the program is only the second choice: links are
/// resolved in it, so a link that was changed since would not be followed.
fn own_program() -> PathBuf {
    let name = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if name.components().count() > 1
        && let Ok(path) = absolute(&name)
        && path.exists()
    {
        return path;
    }
    // The program was found by a search of PATH, or was not started by a path.
    env::current_exe().unwrap_or_else(|_| Path::new(&name).to_owned())
}
