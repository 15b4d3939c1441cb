//! Frames pushed to a connection from outside.
//!
//! ```text
//!  any task ── push ──► Queue ◄── pop ── Inbox ── encode ──► Wire
//!   Outbox                                of the session, or of dispatch, beside the codec
//! ```
//!
//! The wire knows no codec, so pushed frames are encoded by the two that have one: the session
//! while its function waits in `next`, and dispatch between two answers. Only a push into an empty
//! queue wakes the connection, by the waker that it leaves at each wait anyway; a burst costs one
//! wake-up and one write. No foreign code runs while the lock of a queue is held: no waker, no
//! `drop` of a frame, no encoder and no weight function.

mod inbox;
mod queue;
mod room;

/// The lock and the atomics of the queue; `tests/loom` replaces them by loom's.
mod sync {
    pub(super) use std::sync::atomic::AtomicBool;
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use std::error::Error as StdError;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use ropewalk_middleware::ConnectionInfo;

pub(crate) use self::inbox::Inbox;
pub use self::room::{Member, Room};

use self::queue::Queue;

/// What happens to a frame pushed to a full outbox, because the peer reads more slowly than frames
/// are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// [`Outbox::push`] fails with [`PushError::Full`], which contains the frame.
    Refuse,
    /// The oldest queued frames are dropped to make room. This suits states, of which only the
    /// latest matters.
    DropOldest,
    /// The new frame is dropped.
    DropNewest,
    /// The connection is aborted with the reason
    /// [`CloseReason::SlowConsumer`](crate::CloseReason::SlowConsumer). Its peer sees a reset, and
    /// data written before that may be lost.
    Disconnect,
}

/// Why a frame was not pushed. It contains the frame, or all frames of a
/// [`push_all`](Outbox::push_all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError<F> {
    /// The outbox is full, and was made with [`SlowConsumer::Refuse`].
    Full(F),
    /// The outbox is closed: the connection has ended or is ending, or its session has switched to
    /// another codec.
    Closed(F),
}

impl<F> PushError<F> {
    /// The frame.
    pub fn into_inner(self) -> F {
        match self {
            Self::Full(frame) | Self::Closed(frame) => frame,
        }
    }
}

impl<F> fmt::Display for PushError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the outbox of the connection is full",
            Self::Closed(_) => "the connection accepts no more frames",
        })
    }
}

impl<F: fmt::Debug> StdError for PushError<F> {}

/// How much an outbox may hold: a number of frames and, with [`bytes`](Self::bytes), a number of
/// bytes.
///
/// A `usize` converts to a capacity of that many frames. Queued frames are not encoded yet, so
/// their size isn't known; a bound in bytes needs a function that returns the size to count for a
/// frame.
///
/// ```
/// use ropewalk::outbox::Capacity;
/// use ropewalk::Bytes;
///
/// let capacity = Capacity::frames(256).bytes(64 * 1024, |frame: &Bytes| frame.len());
/// # let _ = capacity;
/// ```
pub struct Capacity<F> {
    frames: u32,
    bytes: usize,
    weigh: Option<fn(&F) -> usize>,
}

impl<F> Capacity<F> {
    /// At most this many frames, of any size. 0 counts as 1.
    pub fn frames(frames: usize) -> Self {
        Self {
            frames: u32::try_from(frames).unwrap_or(u32::MAX).max(1),
            bytes: usize::MAX,
            weigh: None,
        }
    }

    /// Also at most `max` bytes, where `weigh` returns the bytes to count for a frame. A frame that
    /// weighs more than `max` is accepted when the outbox is empty. A frame that shares its bytes
    /// with frames in other outboxes counts in each of them.
    #[must_use]
    pub fn bytes(mut self, max: usize, weigh: fn(&F) -> usize) -> Self {
        self.bytes = max;
        self.weigh = Some(weigh);
        self
    }
}

impl<F> Clone for Capacity<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Capacity<F> {}

impl<F> From<usize> for Capacity<F> {
    fn from(frames: usize) -> Self {
        Self::frames(frames)
    }
}

impl<F> fmt::Debug for Capacity<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut capacity = f.debug_struct("Capacity");
        capacity.field("frames", &self.frames);
        if self.weigh.is_some() {
            capacity.field("bytes", &self.bytes);
        }
        capacity.finish()
    }
}

/// Pushes frames to one connection, from any task. Made by
/// [`Session::outbox`](crate::Session::outbox) and [`Opened::outbox`](crate::Opened::outbox). Cheap
/// to clone.
///
/// ```
/// use std::time::Duration;
/// use ropewalk::{Lines, Result, Session, SlowConsumer};
///
/// async fn clock(mut s: Session<Lines>) -> Result {
///     let outbox = s.outbox(8, SlowConsumer::DropOldest);
///     tokio::spawn(async move {
///         let mut ticks = tokio::time::interval(Duration::from_secs(1));
///         while !outbox.is_closed() {
///             let tick = ticks.tick().await;
///             // It fails only when the connection is gone.
///             let _ = outbox.push(format!("{tick:?}"));
///         }
///     });
///     while let Some(line) = s.next().await? {
///         s.feed(line)?;
///     }
///     Ok(())
/// }
/// ```
///
/// Frames of one outbox are written in the order in which they were pushed; between two outboxes of
/// one connection there is no order. They are written between complete answers: by a session while
/// [`next`](crate::Session::next) or [`during_idle`](crate::Session::during_idle) waits, and under
/// `framed` between any two answers, also while calls are pending. A
/// [`Reply::stream`](crate::Reply::stream) that does not end holds them up. Layers around frames
/// don't see them; `stats().frames_out()` counts them. A frame that the codec refuses to encode is
/// dropped and [counted](Self::refused), and the connection continues.
///
/// At the end of the peer's input, and when the connection drains, the frames pushed until then are
/// written before the session's `next` returns `None`; after that the outbox is closed. Queued
/// frames are dropped by an abort, by an answer with `then_close`, and by a session that ends
/// before `next` has returned `None`.
///
/// The peer of a member of a room may send nothing for hours, so a
/// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) would end its connection.
/// [`ConnectionInfo::set_read_deadlines`] sets other deadlines.
pub struct Outbox<F>(Arc<Queue<F>>);

impl<F> Outbox<F> {
    /// Pushes a frame, without waiting.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] with [`SlowConsumer::Refuse`], and [`PushError::Closed`]; each contains
    /// the frame. A frame that is dropped because the outbox is full, or that replaces an older
    /// one, is not an error: see [`Outbox::dropped`].
    pub fn push(&self, frame: F) -> Result<(), PushError<F>> {
        self.0.put(frame, self.0.slow())
    }

    /// Pushes several frames in a row, without frames of other tasks between them, and with one
    /// wake-up for all.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::push`]. With [`SlowConsumer::Refuse`] and [`SlowConsumer::Disconnect`]
    /// either all frames are accepted or not a single one.
    pub fn push_all(&self, frames: impl IntoIterator<Item = F>) -> Result<(), PushError<Vec<F>>> {
        // Collected before the lock is taken, because an iterator is foreign code.
        self.0.put_all(frames.into_iter().collect())
    }

    /// Waits until there is room, then pushes a frame. It does so with any [`SlowConsumer`].
    ///
    /// It does not wait until the peer has the frame. Tasks that wait are not served in any
    /// particular order, and a [`push`](Outbox::push) may overtake them. In the session's own
    /// function it waits for ever when the outbox is full, unless it is called inside
    /// [`during_idle`](crate::Session::during_idle), which writes pushed frames meanwhile.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, the frame is dropped and not pushed.
    ///
    /// # Errors
    ///
    /// [`PushError::Closed`], which contains the frame.
    pub async fn send(&self, frame: F) -> Result<(), PushError<F>> {
        let mut result = self.0.put(frame, SlowConsumer::Refuse);
        while let Err(PushError::Full(frame)) = result {
            let room = self.0.room();
            let room = pin!(room.notified());
            // There may be room since the first attempt, before this task was registered as a
            // waiter.
            result = self.0.put(frame, SlowConsumer::Refuse);
            if let Err(PushError::Full(frame)) = result {
                room.await;
                result = self.0.put(frame, SlowConsumer::Refuse);
            }
        }
        result
    }

    /// The connection to which it pushes.
    pub fn connection(&self) -> &ConnectionInfo {
        self.0.connection()
    }

    /// How many frames wait to be encoded.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no frame waits to be encoded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many frames were dropped because the outbox was full. Counting stops at 2³² − 1.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    /// How many frames the codec has refused to encode. They are dropped. The first of each outbox
    /// is logged, at most ten lines a second. Counting stops at 2³² − 1.
    pub fn refused(&self) -> u64 {
        self.0.refused()
    }

    /// Whether it is closed and accepts no more frames.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether a frame pushed to it is not written any more. It reads the memory that a push needs.
    fn is_gone(&self) -> bool {
        // Both are read in any case.
        self.is_closed() | self.connection().is_aborted()
    }

    /// Whether both are clones of the same outbox.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<F> Clone for Outbox<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F> fmt::Debug for Outbox<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("connection", self.connection())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
