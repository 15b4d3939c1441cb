//! What a handle tells the accept loop about endpoints.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use ropewalk_middleware::{Addr, Result};
use tokio::sync::{mpsc, oneshot};

use crate::endpoint::Endpoint;
use crate::listener::Listener;
use crate::listener::opened::Opened;
use crate::listener::preamble::Preambles;
use crate::server::books::table::EndpointState;

/// How many commands may wait for the accept loop. Each caller waits for its own.
const COMMANDS: usize = 16;

/// What the accept loop is told by a handle.
pub(in crate::server) enum Command {
    Add(Box<New>, Answer<usize>),
    Change(usize, Change, Answer<Closed>),
}

pub(in crate::server) type Answer<T> = oneshot::Sender<Result<T>>;

/// Ended when no loop has the socket any more.
pub(in crate::server) type Closed = mpsc::Receiver<Infallible>;

/// An endpoint that is bound, and has no number yet.
pub(in crate::server) struct New {
    pub(in crate::server) service: usize,
    pub(in crate::server) endpoint: Endpoint,
    pub(in crate::server) address: Addr,
    pub(in crate::server) sockets: NewSockets,
    /// Counts those of this endpoint.
    pub(in crate::server) preambles: Preambles,
}

/// Its sockets: for this runtime, or for workers.
pub(in crate::server) enum NewSockets {
    Here(Vec<Box<dyn Listener>>),
    Workers(Vec<Opened>),
}

/// A change of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Change {
    Remove,
    Pause,
    Resume,
}

impl Change {
    /// The state that it leads to.
    pub(super) fn state(self) -> EndpointState {
        match self {
            Self::Remove => EndpointState::Removed,
            Self::Pause => EndpointState::Paused,
            Self::Resume => EndpointState::Open,
        }
    }
}

/// The way to the accept loop, once the server runs.
#[derive(Debug, Default)]
pub(in crate::server) struct Control(Mutex<Option<(mpsc::Sender<Command>, Option<usize>)>>);

impl Control {
    /// Opens the way, for a server with so many workers.
    pub(in crate::server) fn open(&self, workers: Option<usize>) -> mpsc::Receiver<Command> {
        let (sender, commands) = mpsc::channel(COMMANDS);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((sender, workers));
        commands
    }

    /// Closes it, when no more endpoints are served.
    pub(in crate::server) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The way, and the number of workers; `None` while the server doesn't accept.
    pub(super) fn get(&self) -> Option<(mpsc::Sender<Command>, Option<usize>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
