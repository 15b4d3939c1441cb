//! The wait for the next frame of a session.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::codec::Decoder;

use super::Session;
use crate::outbox::Inbox;
use crate::wire::Wire;
use ropewalk_middleware::{BoxError, Result};

/// The future of [`Session::next`].
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a, C> {
    session: &'a mut Session<C>,
}

impl<C> fmt::Debug for Next<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

impl<'a, C> Next<'a, C> {
    pub(super) fn new(session: &'a mut Session<C>) -> Self {
        Self { session }
    }
}

// No field is pinned: the state is in the session.
impl<C> Unpin for Next<'_, C> {}

impl<C> Future for Next<'_, C>
where
    C: Decoder<Error: Into<BoxError>>,
{
    type Output = Result<Option<C::Item>>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Session { codec, inbox, wire } = &mut *self.session;
        poll_next(wire, codec, inbox, cx)
    }
}

impl<C> Drop for Next<'_, C> {
    /// If it is dropped early, the session no longer waits for the peer, and no deadline counts.
    fn drop(&mut self) {
        self.session.wire.pause();
    }
}

// Inlined, as decoding is: a frame returned through a call is stored and loaded again, which costs
// more than finding it.
#[inline(always)]
fn poll_next<C>(
    wire: &mut Wire,
    codec: &mut C,
    inbox: &mut Inbox<C>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<C::Item>>>
where
    C: Decoder<Error: Into<BoxError>>,
{
    if wire.closing().is_aborted() {
        ready!(wire.poll_step(cx));
        // The error is returned once.
        return Poll::Ready(if wire.has_ended() {
            Ok(None)
        } else {
            wire.check_live().map(|()| None)
        });
    }
    loop {
        ready!(wire.poll_turn(cx));
        ready!(wire.poll_room(cx))?;
        if let Some(frame) = wire.decode(codec) {
            // The session may wait for something else before the next frame.
            wire.settle();
            return Poll::Ready(frame.map(Some));
        }
        if wire.has_ended() {
            ready!(inbox.poll_last(codec, wire, cx))?;
            ready!(wire.poll_step(cx));
            return Poll::Ready(Ok(None));
        }
        ready!(inbox.poll(codec, wire, cx))?;
        ready!(wire.poll_more(false, cx))?;
    }
}
