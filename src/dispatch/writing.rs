//! Writing an answer: its frames are encoded while there is room for them.

use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Body, Error, Reply, Result};

use crate::wire::Wire;

/// Why an answer was not written.
pub(crate) enum Failed {
    /// The connection has failed.
    Wire(Error),
    /// Its stream returned an error, or the codec refused one of its frames.
    Answer(Error),
}

/// Encodes an answer, as far as there is room for it, with one of the two methods of the wire for
/// that. Ready when all of it is encoded, with whether the connection should close.
pub(crate) fn poll_reply<C, F>(
    wire: &mut Wire,
    codec: &mut C,
    slot: &mut Option<Reply<F>>,
    mut encode: impl FnMut(&mut Wire, &mut C, F) -> Result,
    cx: &mut Context<'_>,
) -> Poll<Result<bool, Failed>> {
    while let Some(reply) = slot {
        ready!(wire.poll_turn(cx));
        ready!(wire.poll_room(cx)).map_err(Failed::Wire)?;
        let frame = match &mut reply.body {
            Body::None => None,
            Body::One(_) => match std::mem::replace(&mut reply.body, Body::None) {
                Body::One(frame) => Some(frame),
                _ => None,
            },
            Body::Many(frames) => frames.next(),
            Body::Stream(frames) => match frames.as_mut().poll_next(cx) {
                Poll::Ready(frame) => {
                    frame.transpose().map_err(|error| Failed::Answer(Error::service(error)))?
                }
                Poll::Pending => return wire.poll_wait(cx).map(|error| Err(Failed::Wire(error))),
            },
        };
        let Some(frame) = frame else {
            let close = reply.close;
            *slot = None;
            return Poll::Ready(Ok(close));
        };
        encode(wire, codec, frame).map_err(Failed::Answer)?;
        wire.count_turn();
        wire.begin_wait();
    }
    Poll::Ready(Ok(false))
}
