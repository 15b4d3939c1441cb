//! How long a peer is waited for.

use std::time::Duration;

/// How long a peer may take to send its first frame, any frame, and between two frames.
///
/// A [`Connection`](super::Connection) carries them from a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) to the
/// code that reads its frames and keeps them: the leaves `framed` and `session` do. Without the layer a leaf has one of
/// its own, for a frame that has begun.
///
/// Each begins when its wait does, and the time in which the peer is not waited for does not count: a service that takes
/// its time, answers of 64 KiB or more that the peer has yet to take. None means that it is off.
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
    /// From the first byte of a frame, as far as it was waited for, until it is whole; however the bytes are spread. 30
    /// s by default. Of raw bytes that are taken as they come it is for each chunk: the code that takes them has to say
    /// how long all may take. A decoder that takes bytes and yields nothing is taken to be within a frame, so a
    /// protocol's keep-alives are best frames too. What is dropped of raw bytes as it comes, and the frame behind it,
    /// are under one.
    pub frame: Option<Duration>,
    /// Between two frames, until the first byte of the next. What is sent to the peer is not a frame of the peer's. 60
    /// s by default.
    pub idle: Option<Duration>,
}

impl ReadDeadlines {
    /// No deadline at all.
    pub const OFF: Self = Self { first_frame: None, frame: None, idle: None };

    /// Another deadline for the first frame; `None` turns it off.
    #[must_use]
    pub fn first_frame(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.first_frame = deadline.into();
        self
    }

    /// Another deadline for each frame; `None` turns it off.
    #[must_use]
    pub fn frame(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.frame = deadline.into();
        self
    }

    /// Another deadline between two frames; `None` turns it off.
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
