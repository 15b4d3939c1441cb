//! Deadlines on the peer over a transport that always says that something has arrived.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod wired;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::{Bytes, CloseReason, Io, Lines, ReadDeadlineLayer, framed, reply_fn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::time::Instant;
use tower::Layer;
use wired::over;

/// A part of something sealed, say, of which the rest never comes.
struct Says(DuplexStream);

impl Io for Says {
    fn arrived(&self) -> Option<u64> {
        Some(1)
    }
}

impl AsyncRead for Says {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Says {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_have_arrived_and_can_not_be_read_puts_a_deadline_off_by_a_second_only() {
    let (mut peer, io) = duplex(64);
    let leaf = ReadDeadlineLayer::new().layer(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let (closing, _, task) = over(Says(io), leaf);
    let start = Instant::now();
    assert_eq!(peer.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(start.elapsed(), Duration::from_secs(11));
    assert_eq!(closing.reason(), Some(CloseReason::FirstFrameTimeout));
    drop(peer);
    task.await.unwrap().unwrap_err();
}
