//! Answers that wait for room.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::codec::Encoder;

use super::{Session, Waits};
use crate::dispatch::{Failed, poll_reply};
use crate::wire::Wire;
use ropewalk_middleware::{BoxError, IntoReply, Reply, Result};

impl<C> Session<C> {
    /// Waits until less than 64 KiB are unwritten, then queues a frame as [`Session::feed`] does.
    /// Unlike [`Session::send`], it does not wait until the frame itself is written.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session};
    /// async fn count(mut s: Session<Lines>) -> Result {
    ///     for n in 0..1_000_000 {
    ///         s.feed_wait(n.to_string()).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// If it is dropped while it waits, the frame is not queued.
    ///
    /// # Errors
    ///
    /// If the codec refuses the frame, no part of it is queued, and the session can go on. Errors
    /// of the connection end it, and so does
    /// [`SessionError::WriteStalled`](crate::SessionError::WriteStalled).
    pub async fn feed_wait<T>(&mut self, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>>,
    {
        self.wire.step().await;
        let waits = Waits(&mut self.wire);
        poll_fn(|cx| waits.0.poll_room_written(cx)).await?;
        drop(waits);
        self.wire.encode(&mut self.codec, frame)?;
        self.wire.count_answers();
        Ok(())
    }

    /// Queues an answer of any kind that a service can give: a frame, an `Option` of one, or a
    /// [`Reply`] of several frames or a stream. It waits for room as [`Session::feed_wait`] does.
    /// It returns [`ControlFlow::Break`] for an answer with [`then_close`](Reply::then_close): the
    /// session's function should return then.
    ///
    /// ```
    /// # use ropewalk::{Bytes, Lines, Reply, Result, Session};
    /// fn answer(line: &Bytes) -> Reply<Bytes> {
    ///     if line == "quit" { Reply::one("bye".into()).then_close() } else { Reply::one(line.clone()) }
    /// }
    ///
    /// async fn serve(mut s: Session<Lines>) -> Result {
    ///     while let Some(line) = s.next().await? {
    ///         if s.answer(answer(&line)).await?.is_break() {
    ///             break;
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// No frame is queued in part. If it is dropped before it is ready, the frames not queued yet
    /// are lost.
    ///
    /// # Errors
    ///
    /// Those of [`Session::feed_wait`], and those of the stream. Frames before the error are
    /// queued.
    pub fn answer<R>(&mut self, answer: R) -> Answer<'_, C, R::Frame>
    where
        R: IntoReply,
        C: Encoder<R::Frame, Error: Into<BoxError>>,
    {
        Answer { session: self, reply: Some(answer.into_reply()), begun: false }
    }
}

/// The future of [`Session::answer`]. It is a named type, because the future of an async function
/// would contain the type of the answer, and then the compiler would not accept a `&'static str`
/// across an await.
#[must_use = "futures do nothing unless polled"]
pub struct Answer<'a, C, F> {
    session: &'a mut Session<C>,
    /// The part of the answer that is not queued yet.
    reply: Option<Reply<F>>,
    begun: bool,
}

// No field is pinned: a stream is boxed.
impl<C, F> Unpin for Answer<'_, C, F> {}

impl<C, F> Future for Answer<'_, C, F>
where
    C: Encoder<F, Error: Into<BoxError>>,
{
    type Output = Result<ControlFlow<()>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { session, reply, begun } = &mut *self;
        let Session { codec, wire, .. } = &mut **session;
        if !*begun {
            ready!(wire.poll_step(cx));
            wire.begin_wait();
            *begun = true;
        }
        wire.check_live()?;
        let answered = ready!(poll_reply(wire, codec, reply, Wire::encode, cx));
        wire.count_answers();
        Poll::Ready(match answered {
            Ok(true) => Ok(ControlFlow::Break(())),
            Ok(false) => Ok(ControlFlow::Continue(())),
            Err(Failed::Wire(error) | Failed::Answer(error)) => Err(error),
        })
    }
}

impl<C, F> Drop for Answer<'_, C, F> {
    /// If it is dropped early, the session no longer waits for the peer.
    fn drop(&mut self) {
        self.session.wire.pause();
        self.session.wire.note_moved();
    }
}

impl<C, F> fmt::Debug for Answer<'_, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("reply", &self.reply).finish_non_exhaustive()
    }
}
