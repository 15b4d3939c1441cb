//! The two lines of a connection.

use std::fmt::Display;
use std::thread::panicking;

use tracing::{Level, Span, event, span};

use super::at_level;
use crate::{CloseReason, Closing, Connection, Escaped, Stats};

/// The span of a connection. Both lines are written inside it.
pub(super) fn span(level: Level, connection: &Connection) -> Span {
    at_level!(level, AT => span!(
        target: "ropewalk::connection",
        AT,
        "connection",
        id = connection.id(),
        // A Unix socket's path is the peer's choice.
        peer = %Escaped::display(connection.peer()),
        listener = connection.listener(),
    ))
}

/// A connection that has been logged as open and will be logged as closed: at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Record {
    level: Level,
    closing: Closing,
    stats: Stats,
    closed: bool,
}

impl Record {
    pub(super) fn open(level: Level, connection: &Connection) -> Self {
        at_level!(level, AT => event!(target: "ropewalk::connection", AT, "open"));
        Self { level, closing: connection.closing(), stats: connection.stats(), closed: false }
    }

    /// The service ended by itself.
    pub(super) fn ended<E: Display>(&mut self, error: Option<&E>) {
        let reason = self.closing.settle(error.is_some());
        match error {
            Some(error) => self.close(reason, Some(Escaped::display(error))),
            None => self.close(reason, None),
        }
    }

    /// The service did not get to its end.
    pub(super) fn cut_short(&mut self) {
        if !self.closed {
            let why = if panicking() { CloseReason::Panic } else { CloseReason::Aborted };
            let reason = self.closing.set_reason(why);
            self.close(reason, None);
        }
    }

    fn close(&mut self, reason: CloseReason, error: Option<Escaped<'_>>) {
        // First of all: a subscriber that panics does not get the line again.
        self.closed = true;
        let stats = &self.stats;
        at_level!(self.level, AT => event!(
            target: "ropewalk::connection",
            AT,
            reason = reason.as_str(),
            bytes_in = stats.bytes_in(),
            bytes_out = stats.bytes_out(),
            frames_in = stats.frames_in(),
            frames_out = stats.frames_out(),
            duration_ms = u64::try_from(stats.age().as_millis()).unwrap_or(u64::MAX),
            error = error.map(tracing::field::debug),
            "closed",
        ));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.cut_short();
    }
}
