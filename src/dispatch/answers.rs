//! What becomes of the result of a call: an answer that is encoded, or one that waits for that.

use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Body, BoxError, CloseReason, Error, IntoReply, Reply, Result};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use super::{Calls, Dispatch, Encoding, Failed, NextStep, OnError, poll_reply};
use crate::wire::Wire;

/// The state of an answer.
pub(super) enum Answered {
    /// It is queued.
    Encoded,
    /// It waits to be encoded, or another one in its place.
    Waits,
}

#[allow(private_bounds)] // no method is public
impl<C, S, Q, E, R, X> Dispatch<C, S, C::Item, R::Frame, Q, E, X>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>>,
    S: Service<C::Item, Response = R, Error: Into<BoxError>>,
    R: IntoReply,
    Q: Calls<S::Future>,
    E: OnError<R::Frame>,
    X: Encoding<C, R::Frame>,
{
    /// Queues the result of a call.
    #[inline(always)]
    pub(super) fn answer(
        mut self: Pin<&mut Self>,
        answer: Result<R, S::Error>,
        wire: &mut Wire,
    ) -> Result<Answered> {
        match answer {
            Ok(answer) => match answer.into_reply() {
                // The most common answer, one frame, is encoded directly.
                Reply { body: Body::One(frame), close: false } => {
                    match X::encode(wire, self.as_mut().project().codec, frame) {
                        Ok(()) => Ok(Answered::Encoded),
                        Err(error) => self.unanswerable(error, wire).map(|()| Answered::Waits),
                    }
                }
                reply => {
                    wire.begin_wait();
                    *self.project().reply = Some(reply);
                    Ok(Answered::Waits)
                }
            },
            // The service stays usable after a failed call; `on_error` determines whether the
            // connection goes on.
            Err(error) => self.fail(Error::service(error), true, wire).map(|()| Answered::Waits),
        }
    }

    /// Goes on with an answer that takes more than one step. Breaks when the connection closes
    /// after it.
    #[inline(never)]
    pub(super) fn poll_answer(
        mut self: Pin<&mut Self>,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ControlFlow<()>>> {
        let this = self.as_mut().project();
        match ready!(poll_reply(wire, this.codec, this.reply, X::encode, cx)) {
            // In order, the calls after it are not needed any more; without an order no call comes
            // after it.
            Ok(true) if Q::IN_ORDER || this.calls.is_empty() => return Poll::Ready(Ok(Break(()))),
            Ok(true) => {
                *this.failing = false;
                *this.service = None;
                // An error after it is not answered either.
                *this.next = NextStep::Close;
            }
            Ok(false) => *this.failing = false,
            Err(Failed::Wire(error)) => return Poll::Ready(Err(error)),
            Err(Failed::Answer(error)) => self.unanswerable(error, wire)?,
        }
        Poll::Ready(Ok(Continue(())))
    }

    /// Replaces an answer that failed: it can't be encoded, or its stream returned an error. A
    /// failed answer to an error is not replaced.
    #[cold]
    pub(super) fn unanswerable(self: Pin<&mut Self>, error: Error, wire: &Wire) -> Result {
        let this = self.as_ref().project_ref();
        if *this.failing {
            return Err(error);
        }
        // `then_close` of the failed answer applies to the one that replaces it.
        let close = this.reply.as_ref().is_some_and(|reply| reply.close);
        self.fail(error, !close, wire)
    }

    /// Answers the error that waits for the calls before it, all of which are answered. False if
    /// there is no such error.
    #[inline]
    pub(super) fn fail_next(mut self: Pin<&mut Self>, wire: &Wire) -> Result<bool> {
        let this = self.as_mut().project();
        if !matches!(this.next, NextStep::Fail(..)) {
            return Ok(false);
        }
        if let NextStep::Fail(error, go_on) = std::mem::replace(this.next, NextStep::Decode) {
            self.fail(error, go_on, wire)?;
        }
        Ok(true)
    }

    /// Answers an error, or ends with it.
    pub(super) fn fail(self: Pin<&mut Self>, error: Error, go_on: bool, wire: &Wire) -> Result {
        let this = self.project();
        let Some(mut reply) = this.on_error.answer(&error) else { return Err(error) };
        if !go_on {
            reply.close = true;
            wire.closing().set_reason(error.close_reason().unwrap_or(CloseReason::ServiceError));
        }
        *this.reply = Some(reply);
        *this.failing = true;
        Ok(())
    }
}
