//! The framed transport an author holds: frames in, frames out, raw bytes, and the end.

mod about;
mod answer;
mod drive;
mod home;
mod next;
mod over;
mod push;
mod raw;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio_util::codec::{Decoder, Encoder};

pub use self::answer::Answer;
pub use self::drive::Drive;
pub(crate) use self::home::{Homing, Housed};
pub use self::next::Next;
pub use self::raw::RawChunks;
#[cfg(feature = "tls")]
pub use self::tls::UpgradeTls;

use crate::error::{BoxError, Result, SessionError};
use crate::outbox::Inbox;
use crate::wire::Wire;

/// A connection and its codec: what the protocol is written against.
///
/// ```
/// use ropewalk::{Lines, Result, Session};
///
/// async fn echo(mut s: Session<Lines>) -> Result {
///     while let Some(line) = s.next().await? {
///         s.reply(line)?;
///     }
///     Ok(())
/// }
/// # let _ = ropewalk::session(Lines::crlf(), echo);
/// ```
///
/// Dropping a session does what [`Session::close`] does: what was replied arrives, also when an error ends the
/// function. The connection counts as open until then, so a session moved into another task keeps its place under a
/// connection limit.
pub struct Session<C> {
    codec: C,
    inbox: Inbox<C>,
    wire: Homing,
}

impl<C> Session<C> {
    pub(crate) fn new(codec: C, wire: Homing) -> Self {
        Self { codec, inbox: Inbox::default(), wire }
    }

    /// The next frame; `None` at the end of the stream, or when the server drains ([`Session::is_draining`] tells).
    ///
    /// Whatever was replied is written before it waits, so a plain loop answers a burst of pipelined frames with one
    /// write. While more than 64 KiB of answers wait for the peer, it neither decodes nor reads.
    ///
    /// On drain it still hands out every frame whose bytes had arrived. When a write fails the peer is taken to be gone,
    /// and frames it had sent are not handed out any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped `next()` has lost nothing, and the following one goes on where it was.
    ///
    /// # Errors
    ///
    /// A recoverable codec error (a line too long and skipped, a frame that does not parse; see
    /// [`Error::is_recoverable`](crate::Error::is_recoverable)) comes once, then frames go on. A fatal one, and any
    /// error of a codec that is not ours, comes once and then `None`. Errors of the connection end it. So does a peer that does
    /// not finish a frame in time ([`SessionError::FrameTimeout`]), and under a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) one
    /// that keeps it waiting too long ([`SessionError::FirstFrameTimeout`], [`SessionError::IdleTimeout`]); it may still be told.
    #[allow(clippy::should_implement_trait)] // a future, as every `next` of the async world
    pub fn next(&mut self) -> Next<'_, C>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        Next::new(self)
    }

    /// Queues a frame. It is written when [`Session::next`] runs out of frames, or by [`Session::flush`],
    /// [`Session::during`] and [`Session::close`].
    ///
    /// # Errors
    ///
    /// The codec may refuse the frame: nothing of it is queued, and the session can go on. Above 64 KiB of queued answers it
    /// tries to write, without waiting, and fails if the connection is broken. While the write limit (1 MiB) is still reached
    /// after that, which may be so however fast the peer reads, it fails with [`SessionError::WriteLimit`], and the frame is not
    /// queued. An error while it is missing resets the connection, so that a list does not look complete: [`Session::flush`]
    /// first to go on. For pushes of that size use [`Session::send`], which waits, also in a branch of `select!`.
    #[inline(always)]
    pub fn reply<T>(&mut self, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>>,
    {
        self.make_room()?;
        self.wire.encode(&mut self.codec, frame)?;
        self.wire.count_answers();
        Ok(())
    }

    /// Queues bytes as they are, around the codec: the counterpart of [`Session::raw`].
    ///
    /// # Errors
    ///
    /// [`SessionError::WriteLimit`] and those of the connection, as [`Session::reply`].
    pub fn reply_raw(&mut self, bytes: impl AsRef<[u8]>) -> Result {
        self.make_room()?;
        self.wire.encode_raw(bytes.as_ref());
        self.wire.count_answers();
        Ok(())
    }

    /// Queues a frame when there is room, and waits until it is written.
    ///
    /// # Cancel safety
    ///
    /// No frame is ever sent in part. Dropped while it waits for room, the frame is not queued; dropped later, it is
    /// queued whole.
    ///
    /// # Errors
    ///
    /// As [`Session::reply`], but for the limit; and [`SessionError::WriteStalled`] when the peer takes nothing for as
    /// long as the write stall (30 s) allows, or less than 64 KiB in four times as long.
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

    /// Waits until everything replied is written. Reads ahead meanwhile, one buffer at most, so that two peers that
    /// both write first do not wait for each other. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of the connection, and [`SessionError::WriteStalled`].
    pub async fn flush(&mut self) -> Result {
        let waits = Waits(&mut self.wire);
        let written = poll_fn(|cx| waits.0.poll_written(cx)).await;
        // Behind the write, which must be tried also when the author has used up the task's turn.
        waits.0.step().await;
        written
    }

    /// Awaits something else while the connection goes on: what was replied is written, up to one buffer is read ahead,
    /// and as long as there is room to read, a peer that breaks the connection is noticed.
    ///
    /// A future that is ready at once costs a write only when everything that was received is decoded: otherwise
    /// [`Session::next`], which comes then, writes once for the whole burst.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session};
    /// # async fn lookup(_: ropewalk::Bytes) -> String { String::new() }
    /// # async fn doc(mut s: Session<Lines>) -> Result {
    /// while let Some(name) = s.next().await? {
    ///     let answer = s.during(lookup(name)).await?;
    ///     s.reply(answer)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the connection; the future is dropped then. A peer that merely closes its side is no error: it may
    /// still be waiting for the answer.
    ///
    /// # Cancel safety
    ///
    /// As safe as the future, which is dropped with it; the session has lost nothing.
    pub async fn during<F: Future>(&mut self, future: F) -> Result<F::Output> {
        self.wire.step().await;
        self.wire.check_live()?;
        self.wire.begin_wait();
        let mut future = pin!(future);
        let waits = Waits(&mut self.wire);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                waits.0.write_between(cx);
                return Poll::Ready(Ok(output));
            }
            waits.0.poll_wait(cx).map(Err)
        })
        .await
    }

    /// Changes the codec. Bytes already read are the new codec's. The outboxes of the old one are closed, and what waits in
    /// them is dropped: make new ones.
    ///
    /// # Errors
    ///
    /// [`SessionError::MidFrame`] when a part of a frame was read (a `next()` was dropped while it waited); the session
    /// is closed then.
    pub fn switch<D>(mut self, codec: D) -> Result<Session<D>> {
        self.at_boundary()?;
        self.wire.look_again();
        Ok(Session { codec, inbox: Inbox::default(), wire: self.wire })
    }

    /// The codec, to change its mode.
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

    /// Writes what was replied and closes, so that all of it arrives: half-closes, then reads and discards until the
    /// peer has closed too, for 2 s and 16 MiB at most.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it is the leaf that writes the rest and closes, as for a session that is dropped.
    ///
    /// # Errors
    ///
    /// Those of the last write; the connection is broken then.
    pub async fn close(mut self) -> Result {
        let finished = self.wire.finish().await;
        // The connection counts as open until it is closed.
        let (wire, _home) = self.wire.take();
        if let (Some(wire), Err(_)) = (wire, &finished) {
            wire.abort();
        }
        finished
    }

    /// Breaks the connection: the peer sees a reset (on a Unix socket, as a rule, an end), and what was not written is
    /// not sent.
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

/// Somebody who waits for the peer. Dropped before its end, nobody waits any more, and no deadline counts.
struct Waits<'a>(&'a mut Wire);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.pause();
        // It may be long before the author waits for the peer again.
        self.0.note_moved();
    }
}
