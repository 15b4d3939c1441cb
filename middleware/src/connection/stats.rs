//! The counters of a connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::peer::Peer;
use super::shared::ConnectionShared;

/// A counter with one writer, the task that owns the connection, so a plain load and store are
/// enough.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    pub(super) frames_in: Counter,
    pub(super) frames_out: Counter,
}

/// A handle on a connection's counters; cheap to clone, and it outlives the connection.
#[derive(Clone)]
pub struct Stats(pub(super) Arc<ConnectionShared>);

impl Stats {
    /// Bytes read from the peer.
    pub fn bytes_in(&self) -> u64 {
        self.0.counters.bytes_in.get()
    }

    /// Bytes that the kernel (or the transport) has accepted.
    pub fn bytes_out(&self) -> u64 {
        self.0.counters.bytes_out.get()
    }

    /// Frames decoded.
    pub fn frames_in(&self) -> u64 {
        self.0.counters.frames_in.get()
    }

    /// Frames encoded.
    pub fn frames_out(&self) -> u64 {
        self.0.counters.frames_out.get()
    }

    /// Adds decoded frames. Only the task that runs the codec may call it (one writer).
    pub fn add_frames_in(&self, n: u64) {
        self.0.counters.frames_in.add(n);
    }

    /// Adds encoded frames. Only the task that runs the codec may call it (one writer).
    pub fn add_frames_out(&self, n: u64) {
        self.0.counters.frames_out.add(n);
    }

    /// Whether as many frames were decoded as
    /// [`Closing::limit_frames`](crate::Closing::limit_frames) allows. For the code that runs the
    /// codec, which asks before each frame.
    #[inline]
    pub fn is_at_frame_limit(&self) -> bool {
        self.0.counters.frames_in.get() >= self.0.max_frames.load(Ordering::Relaxed)
    }

    /// How long no byte has moved in either direction, as far as it was noted: a leaf notes it
    /// before each wait.
    pub fn idle(&self) -> Duration {
        self.0.idle_since().elapsed()
    }

    /// Notes that frames are read from here on, and that the peer's first frame is expected. A
    /// connection on which it doesn't arrive is the first to make room at a limit: see
    /// [`MakeRoom`](crate::MakeRoom). The code that runs the codec calls this and the three methods
    /// below; it then has to report itself when bytes have moved and when it waits.
    pub fn begin_frames(&self) {
        self.0.activity.begin_frames();
    }

    /// Notes that no first frame is expected any more: raw bytes were read or written, or the
    /// connection closes.
    pub fn excuse_first_frame(&self) {
        self.0.activity.excuse_first_frame();
    }

    /// Notes that bytes have moved until now. It reads the clock: call it once before a wait, not
    /// for each frame.
    pub fn note_moved(&self) {
        self.0.moved();
    }

    /// Notes whether the connection waits for the peer, with nothing pending and nothing unwritten.
    pub fn set_waiting(&self, waiting: bool) {
        self.0.activity.set_waiting(waiting);
    }

    /// Notes whether bytes wait to be written. For the code that runs the codec.
    pub fn set_writing(&self, writing: bool) {
        self.0.activity.set_writing(writing);
    }

    /// Notes that all is written, and that the connection lingers.
    pub fn set_lingering(&self) {
        self.0.activity.set_lingering();
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn peer(&self) -> &Peer {
        self.0.peer()
    }

    pub(crate) fn listener(&self) -> usize {
        self.0.listener()
    }

    /// When the connection was accepted.
    #[inline]
    pub fn opened(&self) -> Instant {
        self.0.opened
    }

    /// How long ago the connection was accepted.
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats")
            .field("bytes_in", &self.bytes_in())
            .field("bytes_out", &self.bytes_out())
            .field("frames_in", &self.frames_in())
            .field("frames_out", &self.frames_out())
            .finish()
    }
}
