//! The server's end of a connection with faults.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Addr, Io, Peer, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::World;
use super::faults::{End, Plan};
use crate::listener::Listener;
use crate::memory::{MemoryListener, MemoryStream};

/// Wraps each accepted connection.
pub(super) struct FaultyListener {
    inner: MemoryListener,
    world: World,
}

impl FaultyListener {
    pub(super) fn new(inner: MemoryListener, world: World) -> Self {
        Self { inner, world }
    }
}

impl Listener for FaultyListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        let stream = ready!(self.inner.poll_next(cx));
        Poll::Ready((
            Stream::boxed(FaultyStream::new(stream, self.world.clone())),
            Peer::new(Addr::Memory),
        ))
    }

    fn last_call(&mut self) {
        self.inner.last_call();
    }

    fn has_pending(&self) -> bool {
        self.inner.has_pending()
    }

    fn pending(&self) -> usize {
        self.inner.pending()
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

/// One direction of a stream: the wait that is under way, and how much it has moved.
#[derive(Default)]
struct Half {
    wait: Option<Pin<Box<Sleep>>>,
    /// The next read or write may begin, because its wait is over.
    waited: bool,
    moved: u64,
    steps: u64,
}

struct FaultyStream {
    /// `None` after a reset.
    inner: Option<MemoryStream>,
    world: World,
    number: u64,
    plan: Plan,
    reading: Half,
    writing: Half,
}

impl FaultyStream {
    fn new(inner: MemoryStream, world: World) -> Self {
        let (number, plan) = {
            let mut state = world.state();
            state.connections += 1;
            let plan = world.0.faults.plan(&mut state.dice);
            let number = state.connections;
            state.trace.add(number, "accepted", 0);
            (number, plan)
        };
        Self {
            inner: Some(inner),
            world,
            number,
            plan,
            reading: Half::default(),
            writing: Half::default(),
        }
    }

    /// Ready with the number of bytes that may move now: 0 where the connection is cut.
    fn poll_step(&mut self, reads: bool, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let half = if reads { &mut self.reading } else { &mut self.writing };
        if !half.waited {
            if half.wait.is_none() {
                let wait = self.plan.wait(half.steps, &mut self.world.state().dice);
                half.wait = wait.map(|wait| Box::pin(sleep(wait)));
            }
            if let Some(wait) = &mut half.wait {
                ready!(wait.as_mut().poll(cx));
            }
            half.wait = None;
            half.waited = true;
        }
        let mut most = self.plan.most(&mut self.world.state().dice);
        match self.plan.end {
            Some((at, End::Cut)) if reads => most = most.min(at.saturating_sub(half.moved)),
            Some((at, End::Reset)) if half.moved >= at => return Poll::Ready(Err(self.reset())),
            Some((at, End::Reset)) => most = most.min(at - half.moved),
            _ => {}
        }
        Poll::Ready(Ok(usize::try_from(most).unwrap_or(usize::MAX)))
    }

    fn reset(&mut self) -> io::Error {
        if let Some(inner) = self.inner.take() {
            self.world.state().trace.add(self.number, "reset", 0);
            inner.abort();
        }
        io::ErrorKind::ConnectionReset.into()
    }

    /// Records moved bytes; the next step may have to wait.
    fn moved(&mut self, reads: bool, n: usize) {
        let half = if reads { &mut self.reading } else { &mut self.writing };
        let n = n as u64;
        half.moved += n;
        half.steps += 1;
        half.waited = false;
        self.world.state().trace.add(self.number, if reads { "read" } else { "written" }, n);
    }
}

impl Io for FaultyStream {
    fn abort(&mut self) {
        if let Some(inner) = &mut self.inner {
            Io::abort(inner);
        }
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let most = ready!(this.poll_step(true, cx))?.min(buf.remaining());
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let mut piece = [0; 4096];
        let most = most.min(piece.len());
        let mut part = ReadBuf::new(&mut piece[..most]);
        if most > 0 {
            ready!(Pin::new(inner).poll_read(cx, &mut part))?;
        }
        buf.put_slice(part.filled());
        let n = part.filled().len();
        this.moved(true, n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = ready!(this.poll_step(false, cx))?.min(bytes.len());
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let n = ready!(Pin::new(inner).poll_write(cx, &bytes[..most]))?;
        this.moved(false, n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Some(inner) => Pin::new(inner).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        self.world.state().trace.add(self.number, "dropped", 0);
    }
}
