//! How long a connection waits for its peer.

use std::time::Duration;

/// How long a peer may take to send its first frame, any frame, and between two frames.
///
/// A [`Connection`](super::Connection) carries them from a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) to the leaf,
/// `framed` or `session`, which enforces them. Without the layer a leaf has a deadline of its own, for a frame that has
/// begun.
///
/// Each deadline counts from the beginning of its wait. The time in which the connection doesn't wait for the peer
/// doesn't count: while the service works, or while 64 KiB or more of answers wait to be written. `None` turns a
/// deadline off.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::ReadDeadlines;
///
/// let patient = ReadDeadlines::default().idle(Duration::from_secs(600));
/// assert_eq!(patient.first_frame, Some(Duration::from_secs(10)));
/// assert_eq!(patient.idle(None).idle, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadDeadlines {
    /// Until the first frame is whole. 10 s by default.
    pub first_frame: Option<Duration>,
    /// From the first byte of a frame until the frame is complete, however slowly its bytes arrive. 30 s by default.
    /// Raw bytes that are read in chunks have this time for each chunk: the code that reads them has to limit the
    /// total. A decoder that consumes bytes and yields nothing counts as within a frame, so a protocol's keep-alives
    /// should be frames too. Raw bytes that are skipped, and the frame after them, share one deadline.
    pub frame: Option<Duration>,
    /// Between two frames, until the first byte of the next. Sending to the peer doesn't reset it. 60 s by default.
    pub idle: Option<Duration>,
}

impl ReadDeadlines {
    /// No deadline at all.
    pub const OFF: Self = Self { first_frame: None, frame: None, idle: None };

    /// Sets the deadline for the first frame; `None` turns it off.
    #[must_use]
    pub fn first_frame(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.first_frame = deadline.into();
        self
    }

    /// Sets the deadline for each frame; `None` turns it off.
    #[must_use]
    pub fn frame(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.frame = deadline.into();
        self
    }

    /// Sets the deadline between two frames; `None` turns it off.
    #[must_use]
    pub fn idle(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.idle = deadline.into();
        self
    }
}

impl Default for ReadDeadlines {
    fn default() -> Self {
        Self {
            first_frame: Some(Duration::from_secs(10)),
            frame: Some(Duration::from_secs(30)),
            idle: Some(Duration::from_secs(60)),
        }
    }
}
