//! Deadlines on the peer over a transport that always says that something has arrived.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::connection::{Io, Stream};
use ropewalk::{
    Addr, Bytes, CloseReason, Connection, Error, Lines, Peer, ReadDeadlineLayer, framed, reply_fn,
};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex, join, repeat, sink,
};
use tokio::time::{Instant, advance};
use tower::{Layer, Service};

use crate::wired::over;

/// A part of something sealed, say, of which the rest never comes.
struct Says(DuplexStream);

impl Io for Says {
    fn arrived(&self) -> Option<u64> {
        Some(1)
    }
}

impl AsyncRead for Says {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Says {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
async fn bytes_reported_and_not_readable_put_a_deadline_off_by_a_second_only() {
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

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_lets_up_is_under_its_deadlines_as_well() {
    let lines = Lines::lf().skip_too_long();
    let leaf = framed(lines, reply_fn(|line: Bytes| line))
        .on_error(|_: &Error| Bytes::from_static(b"too long"));
    let deadlines = ReadDeadlineLayer::new();
    // A line without an end, of which there is always more to read: the runtime's turns end, the
    // bytes do not.
    let endless = Stream::from_io(join(repeat(b'x'), sink()));
    let connection = Connection::new(endless, Peer::new(Addr::Memory));
    let closing = connection.closing();
    let task = tokio::spawn(deadlines.layer(leaf).call(connection));
    for _ in 0..40 {
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(closing.reason(), Some(CloseReason::FrameTimeout));
    task.abort();
}
