//! The lingering close, so that a reset doesn't destroy the last answer.

use std::borrow::BorrowMut;
use std::fmt;
use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Connection;

/// How long a closed connection is still read from: 2 s.
pub const LINGER: Duration = Duration::from_secs(2);

/// How many bytes a closed connection still reads: 16 MiB.
pub const LINGER_BYTES: u64 = 16 << 20;

/// Ends a connection so that the peer can read everything that was written.
///
/// A socket closed with input unread is reset by the kernel, and the reset destroys what the peer
/// has not read yet. So: half-close, then read and discard until the peer closes too, [`LINGER`]
/// has passed or [`LINGER_BYTES`] have been read.
///
/// Resolves when the connection is closed. It has no error, because errors can't be handled at this
/// point. If it is dropped early, the connection closes at once; if it only borrows the connection
/// ([`Connection::close_mut`]), the owner keeps the connection and may close it again.
#[must_use = "dropping it closes the connection at once: await it"]
pub struct LingeringClose<C = Connection> {
    connection: C,
    /// Made at the first wait, because a peer that has closed already needs no timer.
    deadline: Option<Pin<Box<Sleep>>>,
    left: u64,
    shut: bool,
}

impl<C: BorrowMut<Connection>> LingeringClose<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, deadline: None, left: LINGER_BYTES, shut: false }
    }

    /// Ready when the peer has closed as well, or has sent [`LINGER_BYTES`].
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.shut {
            if ready!(Pin::new(self.connection.borrow_mut()).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.shut = true;
        }
        let mut bin = [MaybeUninit::uninit(); 4096];
        // A bounded number of reads in each turn, so that a peer that sends at line rate does not
        // occupy the worker.
        for _ in 0..64 {
            let mut buf = ReadBuf::uninit(&mut bin);
            match ready!(Pin::new(self.connection.borrow_mut()).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
            self.left = self.left.saturating_sub(buf.filled().len() as u64);
            if self.left == 0 {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<C: BorrowMut<Connection> + Unpin> Future for LingeringClose<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The deadline is polled first: once a peer that keeps sending has used up the task's
        // budget, every timer returns `Pending`.
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        if self.poll_linger(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.deadline.is_some() {
            return Poll::Pending;
        }
        self.deadline.insert(Box::pin(sleep(LINGER))).as_mut().poll(cx)
    }
}

impl<C: fmt::Debug> fmt::Debug for LingeringClose<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LingeringClose")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
