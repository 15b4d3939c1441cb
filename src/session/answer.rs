//! Answers that wait for room.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::codec::Encoder;

use super::{Session, Waits};
use crate::dispatch::{Failed, poll_reply};
use crate::error::{BoxError, Result};
use crate::reply::{IntoReply, Reply};

impl<C> Session<C> {
    /// Queues a frame as [`Session::reply`] does, and waits for room first where that one would fail: until less than 64 KiB
    /// wait to be written. It does not wait until the frame itself is written; [`Session::send`] does.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session};
    /// async fn count(mut s: Session<Lines>) -> Result {
    ///     for n in 0..1_000_000 {
    ///         s.reply_wait(n.to_string()).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, the frame is not queued.
    ///
    /// # Errors
    ///
    /// The codec may refuse the frame: nothing of it is queued, and the session can go on. Those of the connection end it, and
    /// [`SessionError::WriteStalled`](crate::SessionError::WriteStalled).
    pub async fn reply_wait<T>(&mut self, frame: T) -> Result
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

    /// Queues whatever a service may answer with: a frame, an `Option` of one, or a [`Reply`] of several frames or a stream. It
    /// waits for room as [`Session::reply_wait`] does. [`ControlFlow::Break`] says that the answer is one with
    /// [`then_close`](Reply::then_close): the session's author is to return then.
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
    /// No frame is queued in part. Dropped before it is ready, the frames that were not queued yet are lost.
    ///
    /// # Errors
    ///
    /// As [`Session::reply_wait`], and those of the stream. The frames before it are queued.
    pub fn answer<R>(&mut self, answer: R) -> Answer<'_, C, R::Frame>
    where
        R: IntoReply,
        C: Encoder<R::Frame, Error: Into<BoxError>>,
    {
        Answer { session: self, reply: Some(answer.into_reply()), begun: false }
    }
}

/// The future of [`Session::answer`]. It is named, for one of an async function would have the type of the answer in it, and
/// then the compiler takes no `&'static str` across an await.
#[must_use = "futures do nothing unless polled"]
pub struct Answer<'a, C, F> {
    session: &'a mut Session<C>,
    /// What is left of it.
    reply: Option<Reply<F>>,
    begun: bool,
}

// Nothing in it is pinned: a stream is boxed.
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
        let answered = ready!(poll_reply(wire, codec, reply, cx));
        wire.count_answers();
        Poll::Ready(match answered {
            Ok(true) => Ok(ControlFlow::Break(())),
            Ok(false) => Ok(ControlFlow::Continue(())),
            Err(Failed::Wire(error) | Failed::Answer(error)) => Err(error),
        })
    }
}

impl<C, F> Drop for Answer<'_, C, F> {
    /// Dropped before its end, nobody waits for the peer any more.
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
