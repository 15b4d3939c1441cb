//! Frames pushed from outside while the session waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, ready};

use bytes::Bytes;
use tokio_util::codec::Encoder;

use super::{Session, Waits};
use crate::outbox::{Capacity, Outbox, SlowConsumer};
use ropewalk_middleware::{BoxError, Result};

impl<C> Session<C> {
    /// Makes an outbox. Frames that other tasks push to it are written while [`Session::next`] or
    /// [`Session::during_idle`] waits. `capacity` is a number of frames, or a [`Capacity`].
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
    /// Elsewhere, for example in [`Session::during`] or [`Session::raw`], the session may be in the
    /// middle of an answer, so pushed frames wait. If that takes long, the outbox fills up, and the
    /// peer is treated as a slow one without being slow. A session may have several outboxes, for
    /// different types of frames. [`Session::switch`] closes them.
    pub fn outbox<F>(&mut self, capacity: impl Into<Capacity<F>>, slow: SlowConsumer) -> Outbox<F>
    where
        C: Encoder<F, Error: Into<BoxError>>,
        F: Send + 'static,
    {
        let connection = self.info();
        self.inbox.open(connection, capacity.into(), slow)
    }

    /// Makes an outbox of bytes that are written as they are, without the codec, as
    /// [`Session::feed_raw`] does. It is meant for data that is encoded once and pushed to many
    /// connections.
    ///
    /// ```
    /// use ropewalk::codec::Encoder;
    /// use ropewalk::{Bytes, BytesMut, Lines, Result, Room};
    ///
    /// fn announce(room: &Room<Bytes>, line: &str) -> Result {
    ///     let mut encoded = BytesMut::new();
    ///     Lines::crlf().encode(line, &mut encoded)?;
    ///     // Its members have joined with `outbox_raw`.
    ///     room.push(encoded.freeze());
    ///     Ok(())
    /// }
    /// ```
    pub fn outbox_raw(
        &mut self,
        capacity: impl Into<Capacity<Bytes>>,
        slow: SlowConsumer,
    ) -> Outbox<Bytes> {
        let connection = self.info();
        self.inbox.open_raw(connection, capacity.into(), slow)
    }

    /// Does the same as [`Session::during`], and also writes frames pushed to the session's
    /// outboxes. Use it where the session is not in the middle of an answer.
    ///
    /// # Errors
    ///
    /// Those of the connection; the future is dropped then.
    ///
    /// # Cancel safety
    ///
    /// As safe as the future, which is dropped with it; the session loses no data.
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
