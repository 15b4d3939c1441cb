//! How long a connection waits for its peer.

use std::num::NonZeroU32;
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
    /// The bytes of a frame in a second that are fast enough; `None`, the default, gives a frame no
    /// more than its deadline.
    pub min_rate: Option<NonZeroU32>,
}

impl ReadDeadlines {
    /// No deadline at all.
    pub const OFF: Self = Self { first_frame: None, frame: None, idle: None, min_rate: None };

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

    /// Adds a second to the deadline of a frame, the first one included, for each `bytes` of it
    /// that have arrived. So a large frame may take as long as it needs at this rate, and a peer
    /// that drips bytes to keep its connection open may not; the deadline itself can be short. 0
    /// turns it off.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ropewalk_middleware::ReadDeadlines;
    ///
    /// // 5 s, and one more for each 500 bytes: 1 MB may take 35 minutes, and 10 bytes may take 5 s.
    /// let fair = ReadDeadlines::default().frame(Duration::from_secs(5)).min_rate(500);
    /// ```
    #[must_use]
    pub fn min_rate(mut self, bytes: u32) -> Self {
        self.min_rate = NonZeroU32::new(bytes);
        self
    }

    /// How much longer a frame may take of which so many bytes have arrived.
    #[doc(hidden)]
    #[must_use]
    pub fn extension(&self, arrived: u64) -> Duration {
        let Some(rate) = self.min_rate else { return Duration::ZERO };
        // Whole seconds only: each byte less than the rate would otherwise earn a peer that drips
        // some time.
        Duration::from_secs(arrived / u64::from(rate.get()))
    }
}

impl Default for ReadDeadlines {
    fn default() -> Self {
        Self {
            first_frame: Some(Duration::from_secs(10)),
            frame: Some(Duration::from_secs(30)),
            idle: Some(Duration::from_secs(60)),
            min_rate: None,
        }
    }
}
