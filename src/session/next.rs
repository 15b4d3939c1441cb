//! The wait for the next frame of a session.

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow::{self, Break, Continue};
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
    /// It may have begun to wait for the peer.
    waits: bool,
}

impl<C> fmt::Debug for Next<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

impl<'a, C> Next<'a, C> {
    pub(super) fn new(session: &'a mut Session<C>) -> Self {
        Self { session, waits: false }
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
        let this = &mut *self;
        let Session { codec, inbox, wire } = &mut *this.session;
        let wire: &mut Wire = wire;
        loop {
            if !wire.is_quick() {
                this.waits = true;
                if let Break(end) = ready!(poll_unusual(wire, cx)) {
                    return Poll::Ready(end.map(|()| None));
                }
            }
            // Inlined, as decoding is: a frame returned through a call is stored and loaded again,
            // which costs more than finding it.
            match wire.decode(codec) {
                // The session may wait for something else before the next frame.
                Some(Ok(frame)) => return Poll::Ready(Ok(Some(wire.settle_behind(frame)))),
                Some(Err(error)) => {
                    wire.settle();
                    return Poll::Ready(Err(error));
                }
                None => {}
            }
            this.waits = true;
            if let Break(end) = ready!(poll_input(wire, codec, inbox, cx)) {
                return Poll::Ready(end.map(|()| None));
            }
        }
    }
}

impl<C> Drop for Next<'_, C> {
    /// If it is dropped early, the session no longer waits for the peer, and no deadline counts.
    fn drop(&mut self) {
        if self.waits {
            self.session.wire.pause();
        }
    }
}

/// Called before a frame is decoded, if there is anything to look at. Breaks with the end of the
/// session, or its error.
#[inline(never)]
fn poll_unusual(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<ControlFlow<Result>> {
    if wire.closing().is_aborted() {
        ready!(wire.poll_step(cx));
        // The error is returned once.
        let end = if wire.has_ended() { Ok(()) } else { wire.check_live() };
        return Poll::Ready(Break(end));
    }
    ready!(wire.poll_turn(cx));
    let had_ended = wire.has_ended();
    let room = ready!(wire.poll_room(cx));
    if room.is_err() && had_ended {
        // The write that failed is tried at each call, and its error is returned once. A loop that
        // takes no notice of errors would otherwise never end, and never yield.
        ready!(wire.poll_step(cx));
        return Poll::Ready(Break(Ok(())));
    }
    Poll::Ready(if room.is_ok() { Continue(()) } else { Break(room) })
}

/// Called when all that was read is decoded. Continues when there is more.
#[inline(never)]
fn poll_input<C>(
    wire: &mut Wire,
    codec: &mut C,
    inbox: &mut Inbox<C>,
    cx: &mut Context<'_>,
) -> Poll<ControlFlow<Result>> {
    if wire.has_ended() {
        let last = ready!(inbox.poll_last(codec, wire, cx));
        if last.is_ok() {
            ready!(wire.poll_step(cx));
        }
        return Poll::Ready(Break(last));
    }
    let mut polled = ready!(inbox.poll(codec, wire, cx));
    if polled.is_ok() {
        polled = ready!(wire.poll_more(false, cx));
    }
    Poll::Ready(if polled.is_ok() { Continue(()) } else { Break(polled) })
}
