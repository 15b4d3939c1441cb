//! How long the wire waits for the peer.

use std::num::NonZeroU64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::{Error, ReadDeadlines, SessionError};
use tokio::time::Instant;

use super::Wire;
use super::timer::after;

/// How long the runtime may take to deliver bytes that the transport reports as arrived.
const GRACE: Duration = Duration::from_secs(1);

/// A frame that has begun gets its time again for each of this many bytes that have arrived.
const PACE: u64 = 64 * 1024;

/// Why input is wanted, which determines the peer's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The next frame, or the rest of one.
    Frame,
    /// The same while calls are under way: the peer waits for the server, so it has no deadline.
    FrameMeanwhile,
    /// Raw bytes, which are read even when the connection drains.
    Raw,
}

/// The data that the peer has to send in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Due {
    #[default]
    FirstFrame,
    Frame,
    /// The first byte of a further frame.
    Idle,
}

/// The current wait for the peer.
#[derive(Debug, Default)]
pub(super) struct PeerWait {
    /// A frame has been received, so the next one is not the first.
    begun: bool,
    /// The subject of the wait and its beginning.
    due: Due,
    clock: Clock,
    since: Option<ShortInstant>,
    /// How many bytes had been read at that time, without those that are part of the awaited frame.
    before: u64,
    /// Since when the clock has stood still, or until when the decision is postponed. Beside `clock`
    /// and not in it, because every connection has these fields, and so they take 8 bytes less.
    then: Option<ShortInstant>,
}

/// A time in nanoseconds since the connection was opened, and one more. In an `Option` it is half
/// as large as an `Instant`, and every connection has two.
#[derive(Clone, Copy, Debug)]
struct ShortInstant(NonZeroU64);

impl ShortInstant {
    fn new(time: Instant, opened: Instant) -> Self {
        let nanos = time.saturating_duration_since(opened).as_nanos();
        Self(NonZeroU64::MIN.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn get(self, opened: Instant) -> Instant {
        opened + Duration::from_nanos(self.0.get() - 1)
    }
}

/// The state of the clock of a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Clock {
    #[default]
    Runs,
    /// The clock stands still.
    Paused,
    /// The decision is postponed.
    Grace,
}

impl PeerWait {
    /// A frame is complete: the next wait is a new one.
    #[inline]
    pub(super) fn done(&mut self) {
        self.begun = true;
        self.end();
    }

    /// The wait is over: the next one starts from zero.
    #[inline]
    fn end(&mut self) {
        self.since = None;
        self.run();
    }

    fn run(&mut self) {
        self.clock = Clock::Runs;
        self.then = None;
    }

    /// The wire doesn't wait for the peer for now: the clock stands still.
    #[inline]
    pub(super) fn pause(&mut self, opened: Instant) {
        if self.since.is_some() && self.clock != Clock::Paused {
            self.clock = Clock::Paused;
            self.then = Some(ShortInstant::new(Instant::now(), opened));
        }
    }

    /// The wait for the peer that is under way, and its deadline.
    fn due(&self, deadlines: &ReadDeadlines, mid_frame: bool) -> Option<(Due, Duration)> {
        match deadlines.first_frame {
            Some(patience) if !self.begun => Some((Due::FirstFrame, patience)),
            _ if mid_frame => deadlines.frame.map(|patience| (Due::Frame, patience)),
            _ => deadlines.idle.map(|patience| (Due::Idle, patience)),
        }
    }

    /// Continues or begins a wait for this, and returns its beginning and how many bytes had been
    /// read by then.
    fn start(&mut self, due: Due, read: u64, opened: Instant) -> (Instant, u64) {
        let paused = self.then.filter(|_| self.clock == Clock::Paused);
        let start = match (self.since, paused) {
            (Some(start), Some(paused)) if self.due == due => {
                start.get(opened) + paused.get(opened).elapsed()
            }
            (Some(start), None) if self.due == due => start.get(opened),
            _ => {
                self.run();
                self.before = read;
                Instant::now()
            }
        };
        if self.clock == Clock::Paused {
            self.run();
        }
        self.due = due;
        self.since = Some(ShortInstant::new(start, opened));
        (start, self.before)
    }

    /// The time until which the decision is postponed.
    fn grace(&mut self, opened: Instant) -> Instant {
        if let Some(until) = self.then.filter(|_| self.clock == Clock::Grace) {
            return until.get(opened);
        }
        let until = Instant::now() + GRACE;
        self.clock = Clock::Grace;
        self.then = Some(ShortInstant::new(until, opened));
        until
    }
}

impl Wire {
    /// Called when there are no bytes to read. Ready with the error that ends the connection when a
    /// deadline has passed; otherwise the task is woken when that may be so.
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
            // This task may have been kept from running, and the runtime may not have learned yet
            // what the kernel holds.
            let grace = self.wait.grace(self.connection.as_ref().opened());
            ready!(self.timer.poll(grace, cx));
        }
        let error = match due {
            Due::FirstFrame => SessionError::FirstFrameTimeout,
            Due::Frame => SessionError::FrameTimeout,
            Due::Idle => SessionError::IdleTimeout,
        };
        let error = self.failed(error.into());
        // Set here, because a session may not pass the error on.
        if let Some(reason) = error.close_reason() {
            self.closing.set_reason(reason);
        }
        Poll::Ready(error)
    }

    /// The data that the peer has to send, and its deadline. Without read deadlines, the time until
    /// a frame begins is not limited, and a frame that has begun gets more time as its bytes arrive.
    fn due(&mut self, want: Want) -> Option<(Due, Instant)> {
        let begun = !self.at_boundary() || self.skip > 0 || !self.input.is_empty();
        let read = self.stats().bytes_in();
        let opened = self.stats().opened();
        // Bytes in the buffer are part of the awaited frame.
        let behind = read.saturating_sub(self.input.len() as u64);
        if let Some(deadlines) = self.connection.given_read_deadlines() {
            let (due, patience) = self.wait.due(&deadlines, begun || want == Want::Raw)?;
            let (start, before) = self.wait.start(due, behind, opened);
            let extension = match due {
                Due::Idle => Duration::ZERO,
                Due::FirstFrame | Due::Frame => deadlines.extension(read.saturating_sub(before)),
            };
            return Some((due, after(start, patience.saturating_add(extension))));
        }
        let patience = self.limits.frame.filter(|_| begun)?;
        let (start, before) = self.wait.start(Due::Frame, behind, opened);
        let paces = u32::try_from(read.saturating_sub(before) / PACE).unwrap_or(u32::MAX);
        Some((Due::Frame, after(start, patience.saturating_mul(paces.saturating_add(1)))))
    }

    /// The session turns to something else: from here on the wire does not wait for the peer.
    #[inline]
    pub(crate) fn pause(&mut self) {
        self.set_waiting(false);
        self.wait.pause(self.connection.as_ref().opened());
        self.output.pause();
    }
}
