//! The loop under `framed` and `Session::drive`: it makes calls from frames, and frames from
//! answers.
//!
//! ```text
//!              ┌────────────────────── answers ──────────────────────┐
//!              ▼                                                     │
//!  (write a long answer) ──► (finished call?) ──► (a frame?) ──► (service ready?) ──► call
//!        no room: wait             no                no: write, then wait for bytes
//! ```
//!
//! It reads first, then makes the service ready, then calls it, so that an idle connection holds no
//! permit of a layer. A call is polled where it is made, so that a call that is ready at once needs
//! no second pass of the loop. An error has the place of an answer: it waits until the calls before
//! it are answered. While a call is pending the connection is tended: answers are written, and one
//! buffer is read ahead, so that a broken connection is noticed.

mod answers;
mod calls;
mod encoding;
mod last_words;
mod order;
mod slots;
mod writing;

use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use ropewalk_middleware::{BoxError, CallTimer, Error, IntoReply, Reply, Result};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use self::answers::Answered;
pub(crate) use self::calls::Calls;
pub(crate) use self::encoding::{Copied, Encoding, Uncopied};
pub(crate) use self::last_words::WithGoodbye;
pub use self::last_words::{EndConnection, Goodbye, NoGoodbye, OnError};
pub use self::order::{AsReady, Concurrent, InOrder, Order};
pub(crate) use self::writing::{Failed, poll_reply};

use crate::outbox::Inbox;
use crate::wire::Wire;

/// The loop's state for one connection. It resolves when no more answers will come; the caller then
/// finishes the wire.
///
/// `I` is a frame, `F` a frame of an answer, `Q` the calls under way, `E` the answers to errors and
/// the goodbye, `X` how answers are encoded.
#[pin_project]
#[allow(unreachable_pub)] // the type of a public associated type, which needn't be named
pub struct Dispatch<C, S, I, F, Q, E, X = Uncopied> {
    codec: C,
    inbox: Inbox<C>,
    /// `None` when no more calls are made, so that a permit it holds for the next call, such as a
    /// slot under a limit, is released.
    service: Option<S>,
    next: NextStep<I>,
    #[pin]
    calls: Q,
    /// The rest of a long answer.
    reply: Option<Reply<F>>,
    /// The answer that is being written is the answer to an error.
    failing: bool,
    on_error: E,
    /// Lent to the calls while they are polled.
    timer: CallTimer,
    encoding: PhantomData<fn() -> X>,
}

/// What comes next, when the answers that are there are written.
enum NextStep<I> {
    /// A frame is decoded, and the service called with it.
    Decode,
    /// The service is called with this frame once it is ready.
    Call(I),
    /// This error is answered once the calls under way are. The flag tells whether the connection
    /// can go on after it.
    Fail(Error, bool),
    /// The connection closes once the calls under way are answered.
    Close,
}

/// The state of a call.
enum CallProgress {
    /// It was answered, or there was no frame to call with yet.
    Answered,
    /// It is under way.
    Pending,
    /// There are no more frames, and no calls are under way.
    End,
}

impl<C, S, I, F, Q, E, X> fmt::Debug for Dispatch<C, S, I, F, Q, E, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").finish_non_exhaustive()
    }
}

impl<C, S, I, F, Q, E, X> Dispatch<C, S, I, F, Q, E, X> {
    pub(crate) fn new(codec: C, inbox: Inbox<C>, service: S, calls: Q, on_error: E) -> Self {
        Self {
            codec,
            inbox,
            service: Some(service),
            next: NextStep::Decode,
            calls,
            reply: None,
            failing: false,
            on_error,
            timer: CallTimer::default(),
            encoding: PhantomData,
        }
    }

    /// The codec; `None` while a part of an answer is encoded.
    pub(crate) fn codec_between_answers(self: Pin<&mut Self>) -> Option<&mut C> {
        let this = self.project();
        if this.reply.is_none() { Some(this.codec) } else { None }
    }
}

#[allow(private_bounds)] // `poll` is not public
impl<C, S, Q, E, R, X> Dispatch<C, S, C::Item, R::Frame, Q, E, X>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>>,
    S: Service<C::Item, Response = R, Error: Into<BoxError>>,
    R: IntoReply,
    Q: Calls<S::Future>,
    E: OnError<R::Frame>,
    X: Encoding<C, R::Frame>,
{
    /// Runs until the connection should be closed: at the end of the stream, in a drain, after
    /// `then_close`, or with an error.
    #[inline(always)]
    pub(crate) fn poll(
        mut self: Pin<&mut Self>,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        let lent = std::mem::take(self.as_mut().project().timer).lend();
        let polled = self.as_mut().run(wire, cx);
        if polled.is_pending() && (self.reply.is_some() || !wire.has_room()) {
            // An answer waits for the peer, or for its own next frame. The calls under way go on
            // meanwhile.
            self.as_mut().project().calls.poll_progress(cx);
            self.as_mut().poll_waiting(cx);
        }
        // It was taken out to be lent, so there is no other to drop.
        std::mem::forget(std::mem::replace(self.project().timer, lent.end()));
        polled
    }

    /// Makes the call that waits for the service. The wait may be in a queue of a layer, and a
    /// permit received there, such as a slot under a limit, must be used at once and not be held
    /// while an answer waits for the peer.
    fn poll_waiting(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let mut this = self.project();
        if this.reply.as_ref().is_some_and(|reply| reply.close) {
            // After an answer that closes, no more calls are made.
            *this.service = None;
        }
        let NextStep::Call(_) = this.next else { return };
        let Some(service) = this.service.as_mut() else {
            *this.next = NextStep::Decode;
            return;
        };
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                // There was room for it when its frame came, and no other call was made since.
                if let NextStep::Call(frame) = std::mem::replace(this.next, NextStep::Decode) {
                    this.calls.as_mut().push(service.call(frame), cx);
                    this.calls.poll_progress(cx);
                }
            }
            Poll::Ready(Err(error)) => *this.next = NextStep::Fail(Error::service(error), false),
            Poll::Pending => {}
        }
    }

    #[inline(always)]
    fn run(mut self: Pin<&mut Self>, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Result> {
        // Whether the calls under way have just been polled and are still pending.
        let mut pending = false;
        loop {
            let quick = wire.goes_on();
            if !quick {
                ready!(wire.poll_turn(cx));
            }
            if self.reply.is_some() {
                if ready!(self.as_mut().poll_answer(wire, cx))?.is_break() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if !quick {
                ready!(wire.poll_room(cx))?;
            }
            let this = self.as_mut().project();
            let answer = if pending { Poll::Pending } else { this.calls.poll_next(cx) };
            let decodes = match answer {
                Poll::Ready(Some(answer)) => {
                    // Many calls may be done at the same time.
                    wire.count_turn();
                    let answered = self.as_mut().answer(answer, wire)?;
                    matches!(answered, Answered::Encoded) && self.calls.is_empty() && wire.goes_on()
                }
                Poll::Ready(None) => !self.as_mut().fail_next(wire)?,
                Poll::Pending => true,
            };
            pending = decodes
                && match ready!(self.as_mut().poll_call(wire, cx))? {
                    CallProgress::Answered => false,
                    CallProgress::Pending => true,
                    CallProgress::End => return Poll::Ready(Ok(())),
                };
        }
    }

    /// Makes the next call, if there is room for one, and answers it if it is ready at once. It
    /// goes on with the next ones as long as no other call is under way.
    #[inline(always)]
    fn poll_call(
        mut self: Pin<&mut Self>,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CallProgress>> {
        let this = self.as_mut().project();
        if !this.calls.has_room() || !matches!(this.next, NextStep::Decode) {
            return self.poll_otherwise(wire, cx);
        }
        loop {
            let this = self.as_mut().project();
            match wire.decode(this.codec) {
                Some(Ok(frame)) => {
                    wire.begin_wait();
                    if let Break(end) = self.as_mut().call(frame, wire, cx) {
                        return end;
                    }
                }
                Some(Err(error)) => {
                    let go_on = error.is_recoverable();
                    *this.next = NextStep::Fail(error, go_on);
                    return Poll::Ready(Ok(CallProgress::Answered));
                }
                None => return self.poll_input(wire, cx),
            }
        }
    }

    /// What is done if no frame is decoded at this point.
    #[inline(never)]
    fn poll_otherwise(
        mut self: Pin<&mut Self>,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CallProgress>> {
        let this = self.as_mut().project();
        match this.next {
            NextStep::Call(_) => self.poll_waiting_call(wire, cx),
            NextStep::Close if this.calls.is_empty() => Poll::Ready(Ok(CallProgress::End)),
            // The last call before the error has just been answered.
            NextStep::Fail(..) if this.calls.is_empty() => Poll::Ready(Ok(CallProgress::Answered)),
            _ => tend(wire, this.codec, this.inbox, cx),
        }
    }

    /// Makes the call whose frame waited until the service is ready.
    fn poll_waiting_call(
        mut self: Pin<&mut Self>,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CallProgress>> {
        let waiting = std::mem::replace(self.as_mut().project().next, NextStep::Decode);
        if let NextStep::Call(frame) = waiting
            && let Break(end) = self.call(frame, wire, cx)
        {
            return end;
        }
        Poll::Ready(Ok(CallProgress::Answered))
    }

    /// Makes a call, and answers it if it is ready at once. Continues if the next frame can be
    /// decoded before answers are written.
    #[inline(always)]
    fn call(
        mut self: Pin<&mut Self>,
        frame: C::Item,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> ControlFlow<Poll<Result<CallProgress>>> {
        let mut this = self.as_mut().project();
        let Some(service) = this.service.as_mut() else {
            return Break(tend(wire, this.codec, this.inbox, cx));
        };
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            // A service whose `poll_ready` fails can't be used any more.
            Poll::Ready(Err(error)) => {
                *this.next = NextStep::Fail(Error::service(error), false);
                return Break(Poll::Ready(Ok(CallProgress::Answered)));
            }
            Poll::Pending => {
                *this.next = NextStep::Call(frame);
                return Break(tend(wire, this.codec, this.inbox, cx));
            }
        }
        let Poll::Ready(answer) = this.calls.as_mut().poll_call(service.call(frame), cx) else {
            if this.calls.has_room() {
                return Break(Poll::Ready(Ok(CallProgress::Pending)));
            }
            if this.inbox.is_unused() && wire.waits_a_round(cx) {
                return Break(Poll::Pending);
            }
            return Break(tend(wire, this.codec, this.inbox, cx));
        };
        let alone = this.calls.is_empty();
        match self.answer(answer, wire) {
            Ok(Answered::Encoded) if alone && wire.has_turn() && wire.has_room() => Continue(()),
            answered => Break(Poll::Ready(end_of_burst(answered))),
        }
    }

    /// Called when all complete frames that were read are decoded: writes the answers, and waits
    /// for more bytes.
    #[cold]
    fn poll_input(
        self: Pin<&mut Self>,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CallProgress>> {
        let this = self.project();
        let idle = this.calls.is_empty();
        if wire.has_ended() {
            if !idle {
                return tend(wire, this.codec, this.inbox, cx);
            }
            ready!(this.inbox.poll_last(this.codec, wire, cx))?;
            let goodbye = if wire.is_drained() { this.on_error.goodbye() } else { None };
            let Some(goodbye) = goodbye else { return Poll::Ready(Ok(CallProgress::End)) };
            *this.reply = Some(goodbye.then_close());
            return Poll::Ready(Ok(CallProgress::Answered));
        }
        ready!(this.inbox.poll(this.codec, wire, cx))?;
        if !idle {
            ready!(wire.poll_waited(cx));
        }
        match wire.poll_more(!idle, cx) {
            Poll::Ready(Err(error)) if error.is_read_timeout() => {
                // The peer is still there, so the error can be answered.
                *this.next = NextStep::Fail(error, false);
                Poll::Ready(Ok(CallProgress::Answered))
            }
            Poll::Ready(more) => Poll::Ready(more.map(|()| CallProgress::Answered)),
            Poll::Pending => {
                if idle {
                    this.calls.release();
                }
                Poll::Pending
            }
        }
    }
}

/// Ends a burst of calls that are ready at once. Called seldom, so that the compiler takes the loop
/// over them for the hot one.
#[cold]
fn end_of_burst(answered: Result<Answered>) -> Result<CallProgress> {
    answered.map(|_| CallProgress::Answered)
}

/// Waits, writes frames pushed meanwhile, and notices a broken connection.
#[cold]
fn tend<C, T>(
    wire: &mut Wire,
    codec: &mut C,
    inbox: &mut Inbox<C>,
    cx: &mut Context<'_>,
) -> Poll<Result<T>> {
    ready!(inbox.poll(codec, wire, cx))?;
    wire.poll_wait(cx).map(Err)
}
