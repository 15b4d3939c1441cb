//! The connection's end of its outboxes.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ropewalk_middleware::{BoxError, ConnectionInfo, Result};
use tokio_util::codec::Encoder;

use super::queue::Queue;
use super::{Capacity, Outbox, SlowConsumer};
use crate::wire::Wire;

/// The outboxes of one connection, whose frames are encoded with a `C`. It takes one word, because
/// most connections have no outbox.
pub(crate) struct Inbox<C>(Option<Box<Link<C>>>);

/// One outbox and the link to the next. A linked list, because a connection seldom has more than
/// one outbox, and this is the smallest form for one.
struct Link<C> {
    source: AnyQueue<C>,
    next: Option<Box<Self>>,
}

enum AnyQueue<C> {
    Frames(Arc<dyn Encodes<C>>),
    /// Bytes that bypass the codec.
    Raw(Arc<Queue<Bytes>>),
}

/// A queue of frames of one type, which a `C` encodes.
trait Encodes<C>: Send + Sync {
    fn encode(&self, codec: &mut C, wire: &mut Wire) -> bool;
    fn close_if_empty(&self) -> bool;
    fn is_empty(&self) -> bool;
    fn close(&self);
}

impl<C, F> Encodes<C> for Queue<F>
where
    C: Encoder<F, Error: Into<BoxError>>,
    F: Send,
{
    fn encode(&self, codec: &mut C, wire: &mut Wire) -> bool {
        self.encode_by(wire, |wire, frame| {
            if let Err(error) = wire.encode(codec, frame) {
                // The sender is elsewhere and may have pushed the frame to all connections, so this
                // one doesn't end because of it.
                self.refuse(&error);
            }
        })
    }

    fn close_if_empty(&self) -> bool {
        self.close_if_empty()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn close(&self) {
        self.close();
    }
}

impl<F> Queue<F> {
    /// Takes out and encodes frames while the wire has room and the turn lasts. Returns whether
    /// some are left.
    fn encode_by(&self, wire: &mut Wire, mut encode: impl FnMut(&mut Wire, F)) -> bool {
        while wire.has_room() && wire.has_turn() {
            let Some(frame) = self.pop() else { return false };
            encode(wire, frame);
            // A frame may be encoded as zero bytes.
            wire.count_turn();
        }
        self.len() > 0
    }
}

impl<C> AnyQueue<C> {
    /// Encodes the queued frames while the wire has room and the turn lasts. Returns whether some
    /// are left.
    fn encode(&self, codec: &mut C, wire: &mut Wire) -> bool {
        match self {
            Self::Frames(queue) => queue.encode(codec, wire),
            Self::Raw(queue) => queue.encode_by(wire, Wire::push_raw),
        }
    }

    fn close_if_empty(&self) -> bool {
        match self {
            Self::Frames(queue) => queue.close_if_empty(),
            Self::Raw(queue) => queue.close_if_empty(),
        }
    }

    /// Whether it is empty and no `Outbox` exists that could push to it.
    fn is_done(&self) -> bool {
        match self {
            Self::Frames(queue) => Arc::strong_count(queue) == 1 && queue.is_empty(),
            Self::Raw(queue) => Arc::strong_count(queue) == 1 && queue.len() == 0,
        }
    }

    fn close(&self) {
        match self {
            Self::Frames(queue) => queue.close(),
            Self::Raw(queue) => queue.close(),
        }
    }
}

impl<C> Default for Inbox<C> {
    fn default() -> Self {
        Self(None)
    }
}

impl<C> Inbox<C> {
    /// Whether it has never had an outbox, so that there is nothing to look into.
    #[inline]
    pub(crate) fn is_unused(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn open<F>(
        &mut self,
        connection: ConnectionInfo,
        capacity: Capacity<F>,
        slow: SlowConsumer,
    ) -> Outbox<F>
    where
        C: Encoder<F, Error: Into<BoxError>>,
        F: Send + 'static,
    {
        let queue = Queue::new(connection, capacity, slow);
        self.add(AnyQueue::Frames(Arc::clone(&queue) as _));
        Outbox(queue)
    }

    pub(crate) fn open_raw(
        &mut self,
        connection: ConnectionInfo,
        capacity: Capacity<Bytes>,
        slow: SlowConsumer,
    ) -> Outbox<Bytes> {
        let queue = Queue::new(connection, capacity, slow);
        self.add(AnyQueue::Raw(Arc::clone(&queue)));
        Outbox(queue)
    }

    /// Adds one, and drops those that are done: a session may make one for each subscription.
    fn add(&mut self, source: AnyQueue<C>) {
        let mut at = &mut self.0;
        while at.is_some() {
            if at.as_ref().is_some_and(|link| link.source.is_done()) {
                *at = at.take().and_then(|link| link.next);
            } else if let Some(link) = at {
                at = &mut link.next;
            }
        }
        *at = Some(Box::new(Link { source, next: None }));
    }

    /// Encodes the pushed frames. Ready when all queues are empty; after that, a push wakes the
    /// task. Call it between complete answers, at each place where the connection waits.
    #[inline(always)]
    pub(crate) fn poll(
        &mut self,
        codec: &mut C,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        if self.0.is_none() { Poll::Ready(Ok(())) } else { self.poll_pushed(codec, wire, cx) }
    }

    #[cold]
    fn poll_pushed(
        &mut self,
        codec: &mut C,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        // Registered before the queues are checked, so that any later push wakes this task.
        wire.closing().watch(cx);
        self.rotate();
        loop {
            let mut left = false;
            let mut at = &self.0;
            while let Some(link) = at {
                left |= link.source.encode(codec, wire);
                at = &link.next;
            }
            if !left {
                return Poll::Ready(Ok(()));
            }
            if !wire.has_turn()
                && let Poll::Ready(Err(error)) = wire.poll_flush(cx)
            {
                // Written after each turn, because the queues may never become empty.
                return Poll::Ready(Err(error));
            }
            ready!(wire.poll_turn(cx));
            ready!(wire.poll_room(cx))?;
        }
    }

    /// The last call of this kind, at the end of the input: ready when the queues are empty and
    /// closed.
    #[inline(always)]
    pub(crate) fn poll_last(
        &mut self,
        codec: &mut C,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        if self.0.is_none() { Poll::Ready(Ok(())) } else { self.poll_last_pushed(codec, wire, cx) }
    }

    #[cold]
    fn poll_last_pushed(
        &mut self,
        codec: &mut C,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        loop {
            ready!(self.poll_pushed(codec, wire, cx))?;
            let mut closed = true;
            let mut at = &self.0;
            while let Some(link) = at {
                closed &= link.source.close_if_empty();
                at = &link.next;
            }
            if closed {
                *self = Self(None);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Moves the first outbox to the end: one that always has frames must not take all the room
    /// from the others.
    fn rotate(&mut self) {
        let Some(mut first) = self.0.take_if(|link| link.next.is_some()) else { return };
        self.0 = first.next.take();
        let mut at = &mut self.0;
        while let Some(link) = at {
            at = &mut link.next;
        }
        *at = Some(first);
    }
}

impl<C> Drop for Inbox<C> {
    /// Closes the queues. The links are dropped in a loop, because a recursive drop would need a
    /// stack as deep as the list is long.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(link) = next {
            link.source.close();
            next = link.next;
        }
    }
}

impl<C> fmt::Debug for Inbox<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("is_some", &self.0.is_some()).finish()
    }
}
