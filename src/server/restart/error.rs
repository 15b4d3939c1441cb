//! Why a hot restart failed.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

/// The reason why a hot restart failed. The server goes on as before.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RestartError {
    /// The server was not built with [`Server::hot_restart`](crate::Server::hot_restart).
    NotEnabled,
    /// The server does not accept any more: it drains, or has ended.
    NotServing,
    /// This endpoint can't be handed to another process.
    Endpoint {
        /// The endpoint, as its `Display` writes it.
        endpoint: String,
    },
    /// The new process could not be started.
    Start {
        /// The program that was started.
        program: PathBuf,
        /// The system's error.
        cause: Arc<io::Error>,
    },
    /// The new process ended before it was ready. Its log has the reason.
    Exited {
        /// How it ended.
        status: ExitStatus,
    },
    /// The new process was not ready in time, and was killed.
    NotReady {
        /// The time it had.
        within: Duration,
    },
    /// The new process is not a server of this crate, or uses another version of the restart
    /// protocol. It was killed.
    WrongVersion,
    /// The handover to the new process failed, for example because it stopped answering, or because
    /// this process has no descriptors left. The new process, if it was started, was killed.
    Broken {
        /// The system's error.
        cause: Arc<io::Error>,
    },
}

impl From<io::Error> for RestartError {
    fn from(cause: io::Error) -> Self {
        Self::Broken { cause: Arc::new(cause) }
    }
}

impl fmt::Display for RestartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnabled => f.write_str("the server can't be restarted: build it with Server::hot_restart"),
            Self::NotServing => f.write_str("the server does not accept connections: it drains, or has ended"),
            Self::Endpoint { endpoint } => write!(f, "the endpoint {endpoint} can't be handed to a new process"),
            Self::Start { program, cause } => write!(f, "{} could not be started: {cause}", program.display()),
            Self::Exited { status } => write!(f, "the new process ended before it was ready ({status}); see its log"),
            Self::NotReady { within } => {
                write!(f, "the new process was not ready within {within:?} and was killed; see Restart::ready_within")
            }
            Self::WrongVersion => {
                f.write_str("the new process is not a ropewalk server with the same restart protocol, and was killed")
            }
            Self::Broken { cause } => write!(f, "the handover to the new process failed: {cause}"),
        }
    }
}

impl StdError for RestartError {}
