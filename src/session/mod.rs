//! `Session`: frames in, frames out, raw bytes, and the end of the connection.

mod about;
mod answer;
mod drive;
mod during;
mod home;
mod next;
mod over;
mod push;
mod raw;
#[cfg(feature = "rustls")]
mod tls;
mod until;

use std::fmt;
use std::future::poll_fn;

use tokio_util::codec::{Decoder, Encoder};

pub use self::answer::Answer;
pub use self::drive::Drive;
pub use self::during::During;
pub(crate) use self::home::{Housed, ReturningWire};
pub use self::next::Next;
pub use self::raw::RawChunks;
#[cfg(feature = "rustls")]
pub use self::tls::UpgradeTls;

use crate::outbox::Inbox;
use crate::wire::Wire;
use ropewalk_middleware::{BoxError, Result, SessionError};

/// A connection with its codec, for an async function that implements the protocol.
///
/// ```
/// use ropewalk::{Lines, Result, Session};
///
/// async fn echo(mut s: Session<Lines>) -> Result {
///     while let Some(line) = s.next().await? {
///         s.feed(line)?;
///     }
///     Ok(())
/// }
/// # let _ = ropewalk::session(Lines::crlf(), echo);
/// ```
///
/// Dropping a session does the same as [`Session::close`]: queued frames are still written, also
/// when an error ends the function. The connection counts as open until then, so a session moved
/// into another task keeps its slot under a connection limit.
pub struct Session<C> {
    codec: C,
    inbox: Inbox<C>,
    wire: ReturningWire,
}

impl<C> Session<C> {
    pub(crate) fn new(codec: C, wire: ReturningWire) -> Self {
        Self { codec, inbox: Inbox::default(), wire }
    }

    /// The next frame; `None` at the end of the stream, or when the server drains
    /// ([`Session::is_draining`] distinguishes the two).
    ///
    /// Queued frames are written before it waits, so a plain loop answers a burst of pipelined
    /// frames with one write. While more than 64 KiB of answers are unwritten, it neither decodes
    /// nor reads.
    ///
    /// In a drain it still returns every frame whose bytes had arrived. When a write fails, the
    /// peer is considered gone, and the remaining frames it had sent are not returned.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping `next()` loses no data, and the following `next()` goes on at the same
    /// point.
    ///
    /// # Errors
    ///
    /// A recoverable codec error (a line too long and skipped, a frame that does not parse; see
    /// [`Error::is_recoverable`](crate::Error::is_recoverable)) is returned once, then frames go
    /// on. A fatal one, and any error of a codec from another crate, is returned once and then
    /// `None`. Errors of the connection end it. So does a peer that does not finish a frame in time
    /// ([`SessionError::FrameTimeout`]), and under a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) one that is silent too long
    /// ([`SessionError::FirstFrameTimeout`], [`SessionError::IdleTimeout`]); the session may still
    /// reply to it.
    #[allow(clippy::should_implement_trait)] // a future, as every `next` of the async world
    pub fn next(&mut self) -> Next<'_, C>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        Next::new(self)
    }

    /// Queues a frame. It is written when [`Session::next`] has no more received frames, or by
    /// [`Session::flush`], [`Session::during`] and [`Session::close`].
    ///
    /// # Errors
    ///
    /// If the codec refuses the frame, no part of it is queued, and the session can go on. Above 64
    /// KiB of queued answers it tries to write, without waiting, and fails if the connection is
    /// broken. If the write limit (`write_limit` on the leaf) is still reached after that, which can
    /// happen however fast the peer reads, it fails with [`SessionError::WriteLimit`], and the
    /// frame is not queued. If the session then ends with an error, the connection is reset,
    /// because the answers would look complete without the missing frame; call [`Session::flush`]
    /// first to go on. To send that much use [`Session::send`], which waits, also in a branch of
    /// `select!`.
    #[inline(always)]
    pub fn feed<T>(&mut self, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>>,
    {
        let Self { codec, wire, .. } = self;
        let wire: &mut Wire = wire;
        if !wire.has_room() {
            wire.offer()?;
        }
        wire.encode(codec, frame)?;
        wire.count_answers();
        Ok(())
    }

    /// Queues bytes as they are, without the codec: the counterpart of [`Session::raw`]. If they
    /// make it more than 64 KiB of queued answers, all are written as far as that is possible
    /// without waiting, and only the rest is copied.
    ///
    /// # Errors
    ///
    /// [`SessionError::WriteLimit`] and those of the connection, as for [`Session::feed`].
    pub fn feed_raw(&mut self, bytes: impl AsRef<[u8]>) -> Result {
        self.make_room()?;
        self.wire.encode_raw(bytes.as_ref())?;
        self.wire.count_answers();
        Ok(())
    }

    /// Queues a frame when there is room, and waits until it is written.
    ///
    /// # Cancel safety
    ///
    /// No frame is ever sent in part. If it is dropped while it waits for room, the frame is not
    /// queued; if it is dropped later, the whole frame stays queued.
    ///
    /// # Errors
    ///
    /// Those of [`Session::feed`] except the limit; and [`SessionError::WriteStalled`] when the
    /// peer accepts no data, or too little, for as long as the write stall allows (`write_stall` on
    /// the leaf).
    pub async fn send<T>(&mut self, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>>,
    {
        if self.wire.unwritten() >= self.wire.limits().write_limit {
            self.flush().await?;
        }
        let queued = self.wire.encode(&mut self.codec, frame);
        let written = self.flush().await;
        queued.and(written)
    }

    /// Waits until all queued frames are written. It reads ahead meanwhile, one buffer at most, so
    /// that two peers that both write first do not wait for each other. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of the connection, and [`SessionError::WriteStalled`].
    pub async fn flush(&mut self) -> Result {
        let waits = Waits(&mut self.wire);
        let written = poll_fn(|cx| waits.0.poll_written(cx)).await;
        // After the write, which must be tried even if the task's turn is used up.
        waits.0.step().await;
        written
    }

    /// Changes the codec. Bytes already read go to the new codec. The existing outboxes are closed
    /// and the frames in them dropped: make new ones.
    ///
    /// # Errors
    ///
    /// [`SessionError::MidFrame`] if a part of a frame was read (a `next()` was dropped while it
    /// waited); the session is closed then.
    pub fn switch<D>(mut self, codec: D) -> Result<Session<D>> {
        self.at_boundary()?;
        self.wire.look_again();
        Ok(Session { codec, inbox: Inbox::default(), wire: self.wire })
    }

    /// The codec, mutable, for example to change its mode.
    ///
    /// # Errors
    ///
    /// [`SessionError::MidFrame`] as for [`Session::switch`].
    pub fn codec_mut(&mut self) -> Result<&mut C> {
        self.at_boundary()?;
        self.wire.look_again();
        Ok(&mut self.codec)
    }

    /// The codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Writes all queued frames and half-closes the connection. It does not wait for the peer to
    /// close too: the leaf does, for at most 2 s and 16 MiB, when the session's function has
    /// returned. So the function's own values, such as a [`Member`](crate::outbox::Member) of a
    /// room, don't live longer because of a slow peer. A session without a leaf, made by
    /// [`Session::over`], has to wait here.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before its end, the leaf writes the rest and closes, as for a dropped
    /// session.
    ///
    /// # Errors
    ///
    /// Those of the last write; the connection is broken then.
    pub async fn close(mut self) -> Result {
        // Closes the outboxes: what is pushed from now on would not be written.
        drop(std::mem::take(&mut self.inbox));
        let finished = if self.wire.has_leaf() {
            self.wire.finish_writing().await
        } else {
            self.wire.finish().await
        };
        if finished.is_err() {
            // The connection counts as open until it is closed.
            let (wire, _home) = self.wire.take();
            if let Some(wire) = wire {
                wire.abort();
            }
        }
        finished
    }

    /// Aborts the connection: the peer sees a reset (on a Unix socket usually an end of stream),
    /// and unwritten data is not sent.
    pub fn abort(self) {
        if let (Some(wire), _) = self.wire.take() {
            wire.abort();
        }
    }

    /// Checked before encoding: one frame may exceed the limits.
    #[inline]
    fn make_room(&mut self) -> Result {
        if self.wire.has_room() { Ok(()) } else { self.wire.offer() }
    }

    fn at_boundary(&self) -> Result {
        if self.wire.at_boundary() { Ok(()) } else { Err(SessionError::MidFrame.into()) }
    }
}

impl<C> fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// A wait for the peer. When it is dropped the wait is over, and no deadline counts.
struct Waits<'a>(&'a mut Wire);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.pause();
        // It may be long before the session waits for the peer again.
        self.0.note_moved();
    }
}
