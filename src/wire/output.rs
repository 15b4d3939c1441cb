//! Bytes on their way out.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use ropewalk_middleware::Connection;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_write_buf;

use super::scratch;
use crate::error::{Error, Result, SessionError};

/// What has been encoded and not yet written.
#[derive(Default)]
pub(super) struct Output {
    buf: BytesMut,
    /// Whether `buf` is the thread's buffer, to be given back before we wait.
    lent: bool,
    /// Whether the transport may hold back what it took.
    unflushed: bool,
    /// Runs while the kernel takes nothing; none is made for a peer that reads.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether nothing is left to do.
    pub(super) fn is_flushed(&self) -> bool {
        self.buf.is_empty() && !self.unflushed && !self.lent
    }

    /// Where to encode to.
    pub(super) fn buf(&mut self) -> &mut BytesMut {
        if self.buf.capacity() == 0 {
            self.buf = scratch::take_write();
            self.lent = true;
        }
        &mut self.buf
    }

    /// Writes until all is written. Ready with an error when the peer has taken nothing for `patience`.
    pub(super) fn poll_flush(
        &mut self,
        connection: &mut Connection,
        patience: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<Result> {
        let mut progress = false;
        while !self.buf.is_empty() {
            match poll_write_buf(Pin::new(&mut *connection), cx, &mut self.buf) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::wire(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(_)) => {
                    progress = true;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => {
                    self.keep();
                    return self.poll_stall(patience, progress, cx);
                }
            }
        }
        if self.unflushed {
            match Pin::new(connection).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::wire(error))),
                Poll::Pending => {
                    self.keep();
                    return self.poll_stall(patience, progress, cx);
                }
            }
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    /// The deadline of a peer that takes nothing; every byte it takes starts it anew.
    fn poll_stall(&mut self, patience: Duration, progress: bool, cx: &mut Context<'_>) -> Poll<Result> {
        let stall = match &mut self.stall {
            Some(stall) => {
                if progress {
                    stall.as_mut().reset(far(patience));
                }
                stall
            }
            none => none.insert(Box::pin(sleep(patience))),
        };
        stall.as_mut().poll(cx).map(|()| Err(SessionError::WriteStalled.into()))
    }

    /// What the kernel did not take moves to a buffer of our own, sized to it; a buffer that it fills well is kept.
    fn keep(&mut self) {
        if self.lent && self.buf.len() >= self.buf.capacity() / 4 {
            self.lent = false;
        } else if self.lent {
            let own = BytesMut::from(&self.buf[..]);
            scratch::give_write(std::mem::replace(&mut self.buf, own));
            self.lent = false;
        }
    }

    fn release(&mut self) {
        let buf = std::mem::take(&mut self.buf);
        if std::mem::take(&mut self.lent) {
            scratch::give_write(buf);
        }
        self.stall = None;
    }
}

/// `patience` from now; what is beyond the clock's range counts as a year.
fn far(patience: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now().checked_add(patience).unwrap_or_else(|| Instant::now() + YEAR)
}

impl Drop for Output {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("len", &self.len()).finish_non_exhaustive()
    }
}
