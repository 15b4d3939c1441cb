//! A hot restart, in the accept loop of the old process.

use ropewalk_middleware::event::aside;

use super::Running;
use crate::server::books::table::EndpointState;
use crate::server::restart::{Attempt, ListedEndpoint, NewProcess, RestartError, start};

impl Running<'_> {
    pub(super) fn begin_restart(&mut self) -> Result<Attempt, RestartError> {
        let restart = self.options.restart.as_ref().ok_or(RestartError::NotEnabled)?;
        let state = |number| self.shared.endpoints.state(number);
        let now = |(number, place): (usize, &ListedEndpoint)| ListedEndpoint {
            added: place.added.clone().filter(|_| number >= self.named),
            paused: state(number) == Some(EndpointState::Paused),
            removed: state(number) == Some(EndpointState::Removed),
            ..place.clone()
        };
        let places: Vec<_> = self.places.iter().enumerate().map(now).collect();
        let mut sockets = self.front.hand_over(&places)?;
        self.own_sockets = sockets.len();
        sockets.extend(self.shared.beside.hand_over()?);
        // The new process does not know of an endpoint that was added and removed again.
        let removed = places.into_iter().take(self.named).filter(|place| place.removed).collect();
        let attempt = start(restart, sockets, removed);
        self.options.notify.reloading();
        aside!(INFO, "restarting: a new process is started");
        Ok(attempt)
    }

    /// Gives up the sockets that the new process has taken, and tells it to begin.
    pub(super) fn hand_over(&mut self, successor: Box<NewProcess>) -> Attempt {
        // First, because the new process may end as soon as it has begun, and remove the paths.
        let taken = successor.taken();
        let (own, others) = taken.split_at(self.own_sockets.min(taken.len()));
        self.front.give_up(own);
        self.shared.beside.note_taken(others);
        successor.begin()
    }

    pub(super) fn succeeded_by(&self, pid: u32) {
        self.options.notify.succeeded_by(pid);
        self.shared.succeed();
        self.shared.beside.succeed();
        self.shared.restarted(Ok(pid));
        self.shared.begin_drain(self.options.drain);
        aside!(INFO, pid, "a new process has taken over: draining");
    }

    pub(super) fn restart_failed(&mut self, error: RestartError) {
        // This process keeps all sockets.
        self.front.give_up(&[]);
        self.options.notify.restart_failed(&error);
        self.shared.restarted(Err(error.clone()));
        aside!(ERROR, %error, "the restart failed; this process goes on");
    }
}
