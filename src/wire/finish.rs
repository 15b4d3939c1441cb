//! The end of a connection: queued answers arrive.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::connection::{LINGER, LINGER_BYTES};
use ropewalk_middleware::{CloseReason, Error, Result, SessionError, Stream};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::Wire;
use super::timer::after;

impl Wire {
    /// Writes the rest, then closes so that a reset can't destroy it (see
    /// [`ropewalk_middleware::LingeringClose`]). Then the caller drops the wire. After an error,
    /// which is that of the last write, the caller aborts the wire, because half an answer must not
    /// look complete.
    ///
    /// Cancel safe: called again, it goes on at the same point.
    pub(crate) async fn finish(&mut self) -> Result {
        self.finish_flush().await?;
        if self.must_linger() {
            self.linger().await;
        }
        Ok(())
    }

    /// Writes the rest and half-closes. The caller leaves the lingering close to another `finish`.
    ///
    /// Cancel safe, as `finish` is.
    pub(crate) async fn finish_writing(&mut self) -> Result {
        self.finish_flush().await?;
        if self.must_linger() {
            let until = after(Instant::now(), LINGER);
            poll_fn(|cx| {
                self.closing.watch(cx);
                if self.closing.is_aborted()
                    || Pin::new(&mut self.connection).poll_shutdown(cx).is_ready()
                {
                    return Poll::Ready(());
                }
                // The goodbye of a transport of its own may have to wait for the peer.
                self.timer.poll(until, cx)
            })
            .await;
        }
        Ok(())
    }

    async fn finish_flush(&mut self) -> Result {
        let mut budget = LINGER_BYTES;
        // The connection is closing, so no more frames are expected from the peer.
        self.stats().excuse_first_frame();
        let until = after(Instant::now(), self.output.patience_for_all(self.limits.write_stall));
        let flushed = poll_fn(|cx| match self.poll_last_flush(&mut budget, cx) {
            // A peer that accepts a byte now and then never stalls.
            Poll::Pending => {
                self.timer.poll(until, cx).map(|()| Err(SessionError::WriteStalled.into()))
            }
            ready => ready,
        });
        if let Err(error) = flushed.await {
            self.closing.set_reason(error.close_reason().unwrap_or(CloseReason::Aborted));
            return Err(error);
        }
        self.stats().set_lingering();
        Ok(())
    }

    /// If the peer has closed already, no input is unread, so a plain close does not cause a reset.
    /// Other transports may have to send a goodbye of their own.
    fn must_linger(&self) -> bool {
        !self.peer_closed || matches!(self.connection.stream(), Stream::Boxed(_))
    }

    async fn linger(&mut self) {
        let closing = &self.closing;
        let mut close = self.connection.close_mut();
        poll_fn(|cx| {
            closing.watch(cx);
            if closing.is_aborted() { Poll::Ready(()) } else { Pin::new(&mut close).poll(cx) }
        })
        .await;
    }

    /// Aborts the connection.
    pub(crate) fn abort(self) {
        self.connection.abort();
    }

    fn poll_last_flush(&mut self, budget: &mut u64, cx: &mut Context<'_>) -> Poll<Result> {
        // In its own task the future is dropped at an abort; this is for a session that closes in
        // another task.
        self.closing.watch(cx);
        if self.closing.is_aborted() {
            return Poll::Ready(Err(self.aborted()));
        }
        loop {
            if let Poll::Ready(result) = self.poll_flush(cx) {
                self.input.clear();
                self.settle_all();
                return Poll::Ready(result);
            }
            // A peer that is itself blocked in a write would never read, so its bytes are read and
            // dropped.
            self.input.clear();
            if self.peer_closed || *budget == 0 {
                self.settle_all();
                return Poll::Pending;
            }
            ready!(self.poll_turn(cx));
            self.count_turn();
            match self.input.poll_fill(&mut self.connection, cx) {
                Poll::Ready(Ok(0)) => self.peer_closed = true,
                Poll::Ready(Ok(n)) => *budget = budget.saturating_sub(n as u64),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => {
                    self.settle_all();
                    return Poll::Pending;
                }
            }
        }
    }
}
