//! The two lines of a connection.

use std::fmt::Display;
use std::sync::Arc;
use std::thread::panicking;

use super::at_level;
use super::fields::{self, Fields, Settings};
use super::limits::LineLimits;
use crate::event::{LogSpan, event};
use crate::sample::is_chosen;
use crate::{Addr, CloseReason, Closing, Connection, Escaped, Stats};

/// A connection to be logged as opened and as closed: at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Record {
    settings: Settings,
    /// The local address, if the span has it. Boxed, because most logs don't.
    local: Option<Box<Addr>>,
    closing: Closing,
    stats: Stats,
    /// Whether there is an opening line.
    opens: bool,
    /// Asked at the end, if it is known only then whether the connection has a line.
    limits: Option<Arc<LineLimits>>,
    is_refused: bool,
    opened: bool,
    closed: bool,
}

impl Record {
    pub(super) fn new(settings: Settings, connection: &Connection) -> Self {
        Self {
            settings,
            local: (settings.fields != Fields::Short).then(|| Box::new(connection.local())),
            closing: connection.closing(),
            stats: connection.stats(),
            opens: settings.slower_than.is_zero(),
            limits: None,
            is_refused: false,
            opened: false,
            closed: false,
        }
    }

    /// Decides which lines the connection has. Call it after the inner service's `call`, when it is
    /// known whether a limit has refused the connection.
    pub(super) fn limit(&mut self, limits: &Arc<LineLimits>) {
        self.is_refused = self.closing.reason().is_some_and(CloseReason::is_refusal);
        self.opens &= !self.is_refused;
        let is_sampled = is_chosen(self.stats.id(), self.settings.sample);
        if is_sampled && !self.settings.slower_than.is_zero() {
            // A connection that is not slow has no line, and doesn't count.
            self.limits = Some(Arc::clone(limits));
        } else if !is_sampled || !limits.pass(self.is_refused) {
            self.opened = true;
            self.closed = true;
        }
    }

    /// Makes the span of the connection and writes the first line in it. The last line has to be
    /// written in it too.
    ///
    /// This is done late, in the task that runs the connection, because the accept loop must not
    /// wait for a log.
    pub(super) fn open(&mut self) -> LogSpan {
        let span = fields::span(
            self.settings.level,
            self.settings.fields,
            &self.stats,
            self.local.as_deref(),
        );
        // Once, even if a subscriber panics.
        if !std::mem::replace(&mut self.opened, true) && self.opens {
            let _entered = span.enter();
            at_level!(self.settings.level, AT => event!(target: "ropewalk::connection", AT, "open"));
        }
        span
    }

    /// Logs that the service ended by itself. Call it within the span.
    pub(super) fn ended<E: Display>(&mut self, error: Option<&E>) {
        let reason = self.closing.settle(error.is_some());
        if !self.closed {
            self.close(reason, error.as_ref().map(|error| Escaped::display(*error)));
        }
    }

    /// Logs that the service was dropped unfinished, or panicked. Call it within the span.
    pub(super) fn cut_short(&mut self) {
        let why = if panicking() { CloseReason::Panic } else { CloseReason::Aborted };
        let reason = self.closing.set_reason(why);
        if !self.closed {
            self.close(reason, None);
        }
    }

    fn close(&mut self, reason: CloseReason, error: Option<Escaped<'_>>) {
        // Set first, so that a subscriber that panics doesn't get the line again.
        self.closed = true;
        let stats = &self.stats;
        let age = stats.age();
        if age < self.settings.slower_than
            || self.limits.as_ref().is_some_and(|limits| !limits.pass(self.is_refused))
        {
            return;
        }
        let is_error = !matches!(reason, CloseReason::Done | CloseReason::Drained);
        let error_type = is_error && self.settings.fields == Fields::OpenTelemetry;
        at_level!(self.settings.level, AT => event!(
            target: "ropewalk::connection",
            AT,
            reason = reason.as_str(),
            bytes_in = stats.bytes_in(),
            bytes_out = stats.bytes_out(),
            frames_in = stats.frames_in(),
            frames_out = stats.frames_out(),
            duration_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            error = error.map(tracing::field::debug),
            "error.type" = error_type.then(|| reason.as_str()),
            "closed",
        ));
    }
}

impl Drop for Record {
    /// Logs only if the call itself has panicked, so that there is no future.
    fn drop(&mut self) {
        if !self.closed {
            let span = self.open();
            let _entered = span.enter();
            self.cut_short();
        }
    }
}
