//! How long a connection waits for its peer.

use std::time::Duration;

/// How long a peer may take to send its first frame, any frame, and between two frames.
///
/// A [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) stores them on the
/// [`Connection`](super::Connection), and the leaves `framed` and `session` enforce them. Without
/// the layer a leaf has only its own deadline, for a frame that has begun.
///
/// A deadline runs only while the peer is waited for: not while a call is pending, and not while 64
/// KiB of answers or more wait to be accepted by the peer. `None` turns one off.
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
    /// From the beginning until the first frame is complete; 10 s by default.
    pub first_frame: Option<Duration>,
    /// From the first byte of a frame until it is complete, however slowly its bytes arrive; 30 s
    /// by default.
    ///
    /// For raw bytes read as chunks, it is the deadline of each chunk; a deadline for all of them
    /// is up to the code that reads them. If a decoder consumes bytes without yielding a frame,
    /// these count as the beginning of one: let it yield a protocol's keep-alives as frames. Raw
    /// bytes that are discarded, and the frame after them, have one deadline together.
    pub frame: Option<Duration>,
    /// From the end of a frame to the first byte of the next; 60 s by default. Sending to the peer
    /// doesn't reset it.
    pub idle: Option<Duration>,
}

impl ReadDeadlines {
    /// No deadline at all.
    pub const OFF: Self = Self { first_frame: None, frame: None, idle: None };

    /// Sets the deadline of the first frame; `None` turns it off.
    #[must_use]
    pub fn first_frame(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.first_frame = deadline.into();
        self
    }

    /// Sets the deadline of each frame; `None` turns it off.
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
