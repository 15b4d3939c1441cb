//! Frames pushed to a connection from outside.
//!
//! ```text
//!  any task ── push ──► Queue ◄── pop ── Inbox ── encode ──► Wire
//!   Outbox                                of the session, or of dispatch, beside the codec
//! ```
//!
//! The wire knows no codec, so what was pushed is encoded by whoever has one: the session while its author waits in
//! `next`, and dispatch between two answers. Only a push into an empty queue wakes the connection, by the waker it leaves at
//! each wait anyway: so a burst is one wake-up, and one write. No code of others runs under the lock of a queue: neither a
//! waker nor a frame's `drop`, an encoder or a weight.

mod inbox;
mod queue;
mod room;

use std::error::Error as StdError;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use ropewalk_middleware::ConnectionInfo;

pub(crate) use self::inbox::Inbox;
pub use self::room::{Member, Room};

use self::queue::Queue;

/// What becomes of a frame that finds the outbox full: what a peer costs that reads more slowly than it is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// [`Outbox::push`] fails with [`PushError::Full`] and gives the frame back.
    Refuse,
    /// The oldest frames that wait are dropped for it: for states, of which the last one counts.
    DropOldest,
    /// It is dropped itself.
    DropNewest,
    /// The connection is broken, with the reason [`CloseReason::SlowConsumer`](crate::CloseReason::SlowConsumer). Its peer
    /// sees a reset, and what was written before may be lost with it.
    Disconnect,
}

/// Why a frame was not pushed; it has the frame, or all that were to be pushed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError<F> {
    /// There is no room for it, and [`SlowConsumer::Refuse`] says that it is refused.
    Full(F),
    /// The connection has ended or takes no more frames, as its session has switched to another codec.
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
            Self::Closed(_) => "the connection takes no more frames",
        })
    }
}

impl<F: fmt::Debug> StdError for PushError<F> {}

/// How much may wait in an outbox: so many frames, and by [`bytes`](Self::bytes) so many bytes.
///
/// A number stands for so many frames. What waits is not encoded yet, and a frame has no size of its own: so a bound in
/// bytes needs a function that says what one counts for.
///
/// ```
/// use ropewalk::{Bytes, Capacity};
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
    /// So many frames, of whatever size; at least one.
    pub fn frames(frames: usize) -> Self {
        Self { frames: u32::try_from(frames).unwrap_or(u32::MAX).max(1), bytes: usize::MAX, weigh: None }
    }

    /// And so many bytes, by what each frame weighs. A frame that weighs more than `max` is taken when the outbox is empty.
    /// One that shares its bytes with the frames of other outboxes counts in each of them.
    #[must_use]
    pub fn bytes(mut self, max: usize, weigh: fn(&F) -> usize) -> Self {
        (self.bytes, self.weigh) = (max, Some(weigh));
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

/// Where any task puts frames for one connection; made by [`Session::outbox`](crate::Session::outbox) and
/// [`Opened::outbox`](crate::Opened::outbox). Cheap to clone.
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
///             // It only fails when the connection is gone.
///             let _ = outbox.push(format!("{tick:?}"));
///         }
///     });
///     while let Some(line) = s.next().await? {
///         s.reply(line)?;
///     }
///     Ok(())
/// }
/// ```
///
/// Frames of one outbox go out in the order they were pushed; between two outboxes of one connection there is no order. They
/// are written between complete answers: by a session while [`next`](crate::Session::next) or
/// [`during_idle`](crate::Session::during_idle) waits, and under `framed` whenever no answer is half written, also while
/// calls are pending. A [`Reply::stream`](crate::Reply::stream) that does not end holds them up. Layers of frames don't see
/// them; `stats().frames_out()` counts them. A frame that the codec refuses is dropped and [counted](Self::refused), and the
/// connection goes on.
///
/// At the end of the peer's input, and when the connection drains, what was pushed until then is written before the
/// session's `next` says `None`, and from there on nothing more is taken. An abort drops what waits, and so do an answer that
/// says `then_close`, and a session that ends without having heard `None`.
///
/// A member of a room may send nothing for hours: a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) would end it.
/// [`ConnectionInfo::set_read_deadlines`] gives it other deadlines.
pub struct Outbox<F>(Arc<Queue<F>>);

impl<F> Outbox<F> {
    /// Puts a frame in. It never waits.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] where that is what [`SlowConsumer`] says, and [`PushError::Closed`]; each has the frame. A frame
    /// that is dropped for want of room, or that drops an older one, is no error: see [`Outbox::dropped`].
    pub fn push(&self, frame: F) -> Result<(), PushError<F>> {
        self.0.put(frame, self.0.slow())
    }

    /// Puts several frames in, one behind the other, with nothing pushed by others between them and one wake-up for all.
    ///
    /// # Errors
    ///
    /// As [`Outbox::push`]; with [`SlowConsumer::Refuse`] and [`SlowConsumer::Disconnect`] there has to be room for all, or
    /// not one is taken.
    pub fn push_all(&self, frames: impl IntoIterator<Item = F>) -> Result<(), PushError<Vec<F>>> {
        // Collected first: an iterator is code of others.
        self.0.put_all(frames.into_iter().collect())
    }

    /// Puts a frame in as soon as there is room for it, whatever [`SlowConsumer`] says.
    ///
    /// It does not wait until the peer has the frame. Of several tasks that wait, none has a place in the line, and a
    /// [`push`](Outbox::push) may overtake them. In the session's own function it waits for ever when the outbox is full,
    /// unless [`during_idle`](crate::Session::during_idle) has the connection go on meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the frame is not put in, and dropped.
    ///
    /// # Errors
    ///
    /// [`PushError::Closed`], with the frame.
    pub async fn send(&self, frame: F) -> Result<(), PushError<F>> {
        let mut result = self.0.put(frame, SlowConsumer::Refuse);
        while let Err(PushError::Full(frame)) = result {
            let room = self.0.room();
            let room = pin!(room.notified());
            // Between the look and this there may have been some.
            result = self.0.put(frame, SlowConsumer::Refuse);
            if let Err(PushError::Full(frame)) = result {
                room.await;
                result = self.0.put(frame, SlowConsumer::Refuse);
            }
        }
        result
    }

    /// The connection.
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

    /// How many frames were dropped because there was no room. It stops counting at 2³² − 1, as does the one below.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    /// How many frames the codec has refused to encode. They are dropped, and a line in the log says so, for ten of a second
    /// at most.
    pub fn refused(&self) -> u64 {
        self.0.refused()
    }

    /// Whether no more frames are taken.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether this is an outbox of the same making: a clone of that one.
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
