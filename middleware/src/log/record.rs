//! The two lines of a connection.

use std::fmt::Display;
use std::thread::panicking;

use tracing::Level;

use super::at_level;
use super::limits::Limits;
use crate::event::{Span, event, span};
use crate::{CloseReason, Closing, Connection, Escaped, Stats};

/// A connection that will be logged as open and as closed: at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Record {
    level: Level,
    closing: Closing,
    stats: Stats,
    /// Whether there is an opening line.
    opens: bool,
    opened: bool,
    closed: bool,
}

impl Record {
    pub(super) fn new(level: Level, connection: &Connection) -> Self {
        Self {
            level,
            closing: connection.closing(),
            stats: connection.stats(),
            opens: true,
            opened: false,
            closed: false,
        }
    }

    /// Which lines it has. To be asked when the call is made: by then a limit has refused the connection, or not.
    pub(super) fn limit(&mut self, limits: &Limits) {
        let refused = matches!(self.closing.reason(), Some(CloseReason::Refused | CloseReason::RefusedAtOnce));
        self.opens = !refused;
        if !limits.pass(refused) {
            (self.opened, self.closed) = (true, true);
        }
    }

    /// The span of the connection, in which the first line is written here and the last one is to be.
    ///
    /// Made late, in the task that runs the connection: a log writes, and the accept loop must not wait for that.
    pub(super) fn open(&mut self) -> Span {
        let stats = &self.stats;
        at_level!(self.level, AT => {
            let span = span!(
                target: "ropewalk::connection",
                AT,
                "connection",
                id = stats.id(),
                // A Unix socket's path is the peer's choice.
                peer = %Escaped::display(stats.peer()),
                listener = stats.listener(),
            );
            // Once, even if a subscriber panicked over it.
            if !std::mem::replace(&mut self.opened, true) && self.opens {
                let _entered = span.enter();
                event!(target: "ropewalk::connection", AT, "open");
            }
            span
        })
    }

    /// The service ended by itself. To be called within the span.
    pub(super) fn ended<E: Display>(&mut self, error: Option<&E>) {
        let reason = self.closing.settle(error.is_some());
        if !self.closed {
            self.close(reason, error.as_ref().map(|error| Escaped::display(*error)));
        }
    }

    /// The service did not get to its end. To be called within the span.
    pub(super) fn cut_short(&mut self) {
        let why = if panicking() { CloseReason::Panic } else { CloseReason::Aborted };
        let reason = self.closing.set_reason(why);
        if !self.closed {
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
    /// Does something only when the call itself has panicked, so that there is no future.
    fn drop(&mut self) {
        if !self.closed {
            let span = self.open();
            let _entered = span.enter();
            self.cut_short();
        }
    }
}
