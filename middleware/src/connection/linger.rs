//! The lingering close: a reset must not eat the last answer.

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

/// How many bytes a closed connection still takes: 16 MiB.
pub const LINGER_BYTES: u64 = 16 << 20;

/// Ends a connection so that the peer can read everything that was written.
///
/// A socket closed with input unread is reset by the kernel, and the reset destroys what the peer has not read yet. So:
/// half-close, then read and discard until the peer closes too, [`LINGER`] has passed or [`LINGER_BYTES`] have come.
///
/// Resolves when the connection is gone; nothing is to be done about errors at this point, so it has no error. Dropped
/// early it closes at once; one that only borrows its connection ([`Connection::close_mut`]) leaves it to its owner,
/// which may begin anew.
#[must_use = "dropped, it closes at once: await it"]
pub struct LingeringClose<C = Connection> {
    connection: C,
    /// Made at the first wait: a peer that has closed already needs no timer.
    deadline: Option<Pin<Box<Sleep>>>,
    left: u64,
    shut: bool,
}

impl<C: BorrowMut<Connection>> LingeringClose<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, deadline: None, left: LINGER_BYTES, shut: false }
    }

    /// Ready when the peer has closed as well, or has sent all that is still taken.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.shut {
            if ready!(Pin::new(self.connection.borrow_mut()).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.shut = true;
        }
        let mut bin = [MaybeUninit::uninit(); 4096];
        // A bounded number of reads a turn, so that a peer at line rate does not hold the worker.
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
        // First: once a peer that always has more to say has used up the task's turn, every timer says "not yet".
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
        f.debug_struct("LingeringClose").field("connection", &self.connection).finish_non_exhaustive()
    }
}
