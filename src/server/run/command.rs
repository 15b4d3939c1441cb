//! The commands of a handle to the accept loop: endpoints to add and to change.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use ropewalk_middleware::{Addr, Result};
use tokio::sync::{mpsc, oneshot};

use crate::endpoint::Endpoint;
use crate::listener::Listener;
use crate::listener::opened::OpenSocket;
use crate::listener::preamble::Preambles;
use crate::server::books::table::EndpointState;

/// How many commands may wait for the accept loop. Each caller waits for its answer.
const COMMANDS: usize = 16;

/// A command of a handle to the accept loop.
pub(in crate::server) enum Command {
    Add(Box<New>, CommandAnswer<usize>),
    Change(usize, Change, CommandAnswer<Closed>),
}

pub(in crate::server) type CommandAnswer<T> = oneshot::Sender<Result<T>>;

/// A channel that is closed when all loops have made the change.
pub(in crate::server) type Closed = mpsc::Receiver<Infallible>;

/// A new endpoint, which is bound and has no number yet.
pub(in crate::server) struct New {
    pub(in crate::server) service: usize,
    pub(in crate::server) endpoint: Endpoint,
    pub(in crate::server) address: Addr,
    pub(in crate::server) sockets: NewSockets,
    /// Counts the preambles of this endpoint.
    pub(in crate::server) preambles: Preambles,
}

/// The sockets of a new endpoint: for this runtime, or for workers.
pub(in crate::server) enum NewSockets {
    Here(Vec<Box<dyn Listener>>),
    Workers {
        opened: Vec<OpenSocket>,
        /// A duplicate for each worker, in their order: the first is of the first socket, and so on
        /// around.
        shares: Vec<OpenSocket>,
    },
}

/// A change of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Change {
    Remove,
    Pause,
    Resume,
}

impl Change {
    /// The state of the endpoint after the change.
    pub(super) fn state(self) -> EndpointState {
        match self {
            Self::Remove => EndpointState::Removed,
            Self::Pause => EndpointState::Paused,
            Self::Resume => EndpointState::Open,
        }
    }
}

/// The channel to the accept loop; `None` while the server does not accept. With the number of
/// workers.
#[derive(Debug, Default)]
pub(in crate::server) struct Control(Mutex<Option<(mpsc::Sender<Command>, Option<usize>)>>);

impl Control {
    /// Opens the channel.
    pub(in crate::server) fn open(&self, workers: Option<usize>) -> mpsc::Receiver<Command> {
        let (sender, commands) = mpsc::channel(COMMANDS);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((sender, workers));
        commands
    }

    /// Closes the channel. Called when the server stops accepting.
    pub(in crate::server) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The channel and the number of workers; `None` while the server doesn't accept.
    pub(super) fn get(&self) -> Option<(mpsc::Sender<Command>, Option<usize>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
