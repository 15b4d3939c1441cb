//! A drain ends also a connection that sends without end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{Addr, Endpoint, Lines, Listener, Peer, Result, Server, Stream, framed, reply_fn};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// Lines without end: there is always something to read.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        while buf.remaining() >= line.len() {
            buf.put_slice(&line);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ropewalk::Io for Endless {}

/// One connection, and no other.
struct Once(Option<Endless>);

impl Listener for Once {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        match self.0.take() {
            Some(endless) => Poll::Ready((Stream::boxed(endless), Peer::new(Addr::Memory))),
            None => Poll::Pending,
        }
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

#[tokio::test]
async fn a_connection_on_which_there_is_always_something_to_read_is_drained() -> Result {
    let serve = Server::new()
        .listen(Endpoint::from_listener(Once(Some(Endless))))
        .serve(framed(Lines::lf(), reply_fn(|_: Bytes| None::<Bytes>)));
    let handle = serve.handle();
    let serve = tokio::spawn(serve);
    while handle.counts().accepted() == 0 {
        tokio::task::yield_now().await;
    }
    handle.drain(Duration::from_secs(3600));
    timeout(Duration::from_secs(20), serve).await??
}
