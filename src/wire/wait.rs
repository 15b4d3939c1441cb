//! How long the peer is waited for.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::ReadDeadlines;
use tokio::time::Instant;

use super::Wire;
use super::timer::after;
use crate::error::{Error, SessionError};

/// How long the runtime has to bring what the transport says has arrived.
const GRACE: Duration = Duration::from_secs(1);

/// A frame that has begun has its time anew for each of so many bytes that have come.
const PACE: u64 = 64 * 1024;

/// Why input is wanted, and so which deadline the peer is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The next frame, or the rest of one.
    Frame,
    /// The same while calls are under way: it is the peer who waits.
    FrameMeanwhile,
    /// Raw bytes in the middle of something: they come even when the connection drains.
    Raw,
}

/// What a peer is late with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Due {
    #[default]
    FirstFrame,
    Frame,
    /// The first byte of a next frame.
    Idle,
}

/// The wait for the peer that is under way.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// A frame has come: the next one is not the first.
    begun: bool,
    /// What for, and since when.
    due: Due,
    since: Option<Instant>,
    /// How many bytes had been read then, but for those that are part of what is waited for.
    before: u64,
    clock: Clock,
}

/// What the clock of a wait does.
#[derive(Debug, Default)]
enum Clock {
    #[default]
    Runs,
    /// Nobody waits any more, since then.
    Paused(Instant),
    /// The verdict is put off until then.
    Grace(Instant),
}

impl Wait {
    /// A frame is whole: the next wait is a new one.
    #[inline]
    pub(super) fn done(&mut self) {
        self.begun = true;
        self.end();
    }

    /// The wait is over: the next one begins anew.
    #[inline]
    fn end(&mut self) {
        self.since = None;
        self.clock = Clock::Runs;
    }

    /// Nobody waits for the peer until further notice: the clock stands still.
    pub(super) fn pause(&mut self) {
        if self.since.is_some() && !matches!(self.clock, Clock::Paused(_)) {
            self.clock = Clock::Paused(Instant::now());
        }
    }

    /// What the peer has to do, and how long it may take.
    fn due(&self, deadlines: &ReadDeadlines, mid_frame: bool) -> Option<(Due, Duration)> {
        match deadlines.first_frame {
            Some(patience) if !self.begun => Some((Due::FirstFrame, patience)),
            _ if mid_frame => deadlines.frame.map(|patience| (Due::Frame, patience)),
            _ => deadlines.idle.map(|patience| (Due::Idle, patience)),
        }
    }

    /// Since when it is waited for that, as from now somebody waits for it, and how many bytes had been read by then.
    fn start(&mut self, due: Due, read: u64) -> (Instant, u64) {
        let start = match (self.since, &self.clock) {
            (Some(start), Clock::Paused(paused)) if self.due == due => start + paused.elapsed(),
            (Some(start), _) if self.due == due => start,
            _ => {
                (self.clock, self.before) = (Clock::Runs, read);
                Instant::now()
            }
        };
        if let Clock::Paused(_) = self.clock {
            self.clock = Clock::Runs;
        }
        (self.due, self.since) = (due, Some(start));
        (start, self.before)
    }

    /// Until when the verdict is put off.
    fn grace(&mut self) -> Instant {
        if let Clock::Grace(until) = self.clock {
            return until;
        }
        let until = Instant::now() + GRACE;
        self.clock = Clock::Grace(until);
        until
    }
}

impl Wire {
    /// Called when there is nothing to read. Ready with the error that ends the connection when the peer has been
    /// waited for long enough; otherwise the task is woken when that may be so.
    pub(super) fn poll_patience(&mut self, want: Want, cx: &mut Context<'_>) -> Poll<Error> {
        if want == Want::FrameMeanwhile {
            return Poll::Pending;
        }
        let Some((due, until)) = self.due(want) else {
            self.wait.end();
            self.timer.idle();
            return Poll::Pending;
        };
        ready!(self.timer.poll(until, cx));
        if self.connection.stream().arrived().is_some_and(|n| n > 0) {
            // We were kept from running, and the runtime has yet to learn what the kernel holds.
            let grace = self.wait.grace();
            ready!(self.timer.poll(grace, cx));
        }
        let error = match due {
            Due::FirstFrame => SessionError::FirstFrameTimeout,
            Due::Frame => SessionError::FrameTimeout,
            Due::Idle => SessionError::IdleTimeout,
        };
        let error = self.failed(error.into());
        // Whatever a session makes of it.
        if let Some(reason) = error.close_reason() {
            self.closing.set_reason(reason);
        }
        Poll::Ready(error)
    }

    /// What the peer has to do by when. Without deadlines of its own it may take as long as it likes to begin, and what it
    /// has begun gets more time by what has come.
    fn due(&mut self, want: Want) -> Option<(Due, Instant)> {
        let begun = !self.at_boundary() || self.skip > 0 || !self.input.is_empty();
        let read = self.stats().bytes_in();
        if let Some(deadlines) = self.connection.given_read_deadlines() {
            let (due, patience) = self.wait.due(&deadlines, begun || want == Want::Raw)?;
            let (start, _) = self.wait.start(due, read);
            return Some((due, after(start, patience)));
        }
        let patience = self.limits.frame.filter(|_| begun)?;
        let (start, before) = self.wait.start(Due::Frame, read.saturating_sub(self.input.len() as u64));
        let paces = u32::try_from(read.saturating_sub(before) / PACE).unwrap_or(u32::MAX);
        Some((Due::Frame, after(start, patience.saturating_mul(paces.saturating_add(1)))))
    }

    /// Its author turns to something else: from here on the peer is not waited for.
    pub(crate) fn pause(&mut self) {
        self.set_waiting(false);
        self.wait.pause();
        self.output.pause();
    }
}
