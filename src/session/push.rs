//! Frames pushed from outside while the session's author waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, ready};

use bytes::Bytes;
use tokio_util::codec::Encoder;

use super::{Session, Waits};
use crate::error::{BoxError, Result};
use crate::outbox::{Capacity, Outbox, SlowConsumer};

impl<C> Session<C> {
    /// An outbox: frames that other tasks push there are written while [`Session::next`] or [`Session::during_idle`] waits.
    /// `capacity` is a number of frames, or a [`Capacity`].
    ///
    /// ```
    /// use ropewalk::{Bytes, Lines, Result, Room, Session, SlowConsumer};
    ///
    /// async fn listen(mut s: Session<Lines>, news: Room<Bytes>) -> Result {
    ///     let _listening = news.join(s.outbox(64, SlowConsumer::DropOldest));
    ///     while s.next().await?.is_some() {}
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Elsewhere, in [`Session::during`] or [`Session::raw`] say, its author may be in the middle of an answer, so what is
    /// pushed waits; where that may take long, the outbox fills, and the peer is treated as a slow one without being
    /// slow. A session may have several, of different types of frames. [`Session::switch`] closes them.
    pub fn outbox<F>(&mut self, capacity: impl Into<Capacity<F>>, slow: SlowConsumer) -> Outbox<F>
    where
        C: Encoder<F, Error: Into<BoxError>>,
        F: Send + 'static,
    {
        let connection = self.info();
        self.inbox.open(connection, capacity.into(), slow)
    }

    /// An outbox of bytes that are written as they are, around the codec, as [`Session::reply_raw`] does: for data that is
    /// encoded once and pushed to many.
    ///
    /// ```
    /// use ropewalk::{Bytes, BytesMut, Encoder, Lines, Result, Room};
    ///
    /// fn announce(room: &Room<Bytes>, line: &str) -> Result {
    ///     let mut encoded = BytesMut::new();
    ///     Lines::crlf().encode(line, &mut encoded)?;
    ///     // Its members have joined with `outbox_raw`.
    ///     room.push(encoded.freeze());
    ///     Ok(())
    /// }
    /// ```
    pub fn outbox_raw(&mut self, capacity: impl Into<Capacity<Bytes>>, slow: SlowConsumer) -> Outbox<Bytes> {
        let connection = self.info();
        self.inbox.open_raw(connection, capacity.into(), slow)
    }

    /// What [`Session::during`] does, at a moment when the author is not in the middle of an answer: what is pushed to the
    /// session's outboxes is written as well.
    ///
    /// # Errors
    ///
    /// Those of the connection; the future is dropped then.
    ///
    /// # Cancel safety
    ///
    /// As safe as the future, which is dropped with it; the session has lost nothing.
    pub async fn during_idle<F: Future>(&mut self, future: F) -> Result<F::Output> {
        self.wire.step().await;
        self.wire.check_live()?;
        self.wire.begin_wait();
        let mut future = pin!(future);
        let Self { codec, inbox, wire } = self;
        let waits = Waits(wire);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                waits.0.write_between(cx);
                return Poll::Ready(Ok(output));
            }
            ready!(inbox.poll(codec, waits.0, cx))?;
            waits.0.poll_wait(cx).map(Err)
        })
        .await
    }
}
