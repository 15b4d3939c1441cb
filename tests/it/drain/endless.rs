//! A drain ends also a connection that sends without end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::LINGER;
use ropewalk::connection::{Io, Stream};
use ropewalk::endpoint::Listener;
use ropewalk::memory::MemoryStream;
use ropewalk::{Addr, CloseReason, Endpoint, Handle, Lines, Peer, Server, framed, reply_fn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::time::{Instant, timeout};

use crate::harness::{LONG, Running, assert_reasons, on_memory, settle, shouter};

/// What a kernel may hold, what a lingering close still takes, and what fits on the way.
const ENOUGH: usize = (8 + 16 + 1) << 20;

/// Always has more to say, and takes all answers; leaves after a while, so that a failure ends too.
struct Endless(Arc<AtomicUsize>);

impl Io for Endless {}

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        while buf.remaining() >= line.len() && self.0.load(Ordering::SeqCst) <= 2 * ENOUGH {
            buf.put_slice(&line);
            self.0.fetch_add(line.len(), Ordering::SeqCst);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

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

#[tokio::test(start_paused = true)]
async fn a_peer_that_always_has_more_to_say_hears_of_the_drain() {
    let sent = Arc::new(AtomicUsize::new(0));
    let endpoint = Endpoint::from_listener(Once(Some(Endless(Arc::clone(&sent)))));
    let serve = Server::new().listen(endpoint).serve(shouter());
    serve.handle().drain(LONG);
    assert_reasons(&Running::start(serve).await.over().await, &[(CloseReason::Drained, 1)]);
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent <= ENOUGH, "{sent} bytes");
}

#[tokio::test]
async fn a_connection_on_which_there_is_always_something_to_read_is_drained() {
    let sent = Arc::new(AtomicUsize::new(0));
    let endpoint = Endpoint::from_listener(Once(Some(Endless(Arc::clone(&sent)))));
    let silent = framed(Lines::lf(), reply_fn(|_: Bytes| None::<Bytes>));
    let server = Running::start(Server::new().listen(endpoint).serve(silent)).await;
    server.until("it is served", |_| sent.load(Ordering::SeqCst) > 0).await;
    let before = sent.load(Ordering::SeqCst);
    server.handle().drain(Duration::MAX);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    let sent = sent.load(Ordering::SeqCst) - before;
    assert!(sent <= ENOUGH, "{sent} bytes");
}

/// Sends as fast as it is read, and reads as fast as it is answered, until the connection ends; how
/// much it sent once the server was draining.
async fn flood(client: MemoryStream, handle: Handle) -> usize {
    let (mut from, mut to) = split(client);
    let reading = tokio::spawn(async move {
        let mut buf = vec![0; 65_536];
        while matches!(from.read(&mut buf).await, Ok(1..)) {}
    });
    let line = [b"a".repeat(1023), b"\n".to_vec()].concat();
    let mut sent = 0;
    // It does not care that the server has closed its side: it goes on as long as somebody takes
    // it.
    while to.write_all(&line).await.is_ok() {
        if handle.is_draining() {
            sent += line.len();
        }
    }
    reading.await.unwrap();
    sent
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_sending_does_not_hold_the_drain_beyond_its_bound() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let client = connector.connect().await.unwrap();
    let flood = tokio::spawn(flood(client, server.handle().clone()));
    settle().await;
    let start = Instant::now();
    server.handle().drain(LONG);
    let sent = timeout(LONG, flood).await.unwrap().unwrap();
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    assert!(start.elapsed() <= LINGER, "{:?}", start.elapsed());
    assert!(sent < ENOUGH, "{sent} bytes");
}
