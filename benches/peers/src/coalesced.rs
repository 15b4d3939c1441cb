//! The loop that coalesces by hand, over any stream and sink of frames.

use std::future::poll_fn;
use std::task::Poll;

use futures_util::{Sink, SinkExt, Stream, StreamExt};

/// Echoes until the peer closes. Answers are flushed before it waits for the next frame.
pub async fn coalesced<S, I, O, E>(mut framed: S)
where
    S: Stream<Item = Result<I, E>> + Sink<O> + Unpin,
    O: From<I>,
{
    loop {
        let next = poll_fn(|cx| match framed.poll_next_unpin(cx) {
            Poll::Pending => match framed.poll_flush_unpin(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(None),
                _ => Poll::Pending,
            },
            ready => ready,
        });
        let Some(Ok(frame)) = next.await else { return };
        if framed.feed(frame.into()).await.is_err() {
            return;
        }
    }
}
