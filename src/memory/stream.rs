//! One end of a memory connection.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use ropewalk_middleware::Io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::pipe::{Pipe, Wakers};

/// Which end, and so to which pipe it writes; it reads from the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PipeEnd {
    Client,
    Server,
}

/// Both directions, under one lock: a reset breaks them at the same moment.
#[derive(Debug)]
struct Pipes {
    from_client: Pipe,
    from_server: Pipe,
}

/// One end of a connection within the process. It behaves as a TCP socket does:
///
/// - each direction holds a bounded number of bytes; a write waits for room;
/// - `shutdown` ends its own direction only: the peer reads the end and may go on writing;
/// - dropping it ends both directions: the peer still reads the bytes written before. If the peer
///   writes instead, the write succeeds and resets the connection;
/// - dropping it with bytes unread, or [aborting](MemoryStream::abort) it, resets the connection;
/// - a reset loses all bytes on their way, and the peer's reads and writes fail with
///   `ConnectionReset`.
///
/// Therefore a server that closes where it should linger loses its last answer here too, as on TCP.
///
/// It differs from TCP where TCP depends on timing or on the system. A reset arrives at once, while
/// a network takes time. Every read and write after it fails, while a socket may fail once and then
/// show an end of stream. And it destroys bytes that have arrived at the peer and are unread, which
/// some kernels keep.
pub struct MemoryStream {
    pipes: Arc<Mutex<Pipes>>,
    end: PipeEnd,
    abort: bool,
}

impl MemoryStream {
    /// The two ends of a new connection, the client's and the server's.
    pub(crate) fn pair(capacity: usize) -> (Self, Self) {
        let pipes = Pipes { from_client: Pipe::new(capacity), from_server: Pipe::new(capacity) };
        let client =
            Self { pipes: Arc::new(Mutex::new(pipes)), end: PipeEnd::Client, abort: false };
        let server = Self { pipes: Arc::clone(&client.pipes), end: PipeEnd::Server, abort: false };
        (client, server)
    }

    /// Resets the connection: bytes that the peer has not read are lost, and its reads and writes
    /// fail with `ConnectionReset`.
    pub fn abort(mut self) {
        self.abort = true;
    }

    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipes {
    fn reading(&mut self, end: PipeEnd) -> &mut Pipe {
        match end {
            PipeEnd::Client => &mut self.from_server,
            PipeEnd::Server => &mut self.from_client,
        }
    }

    fn writing(&mut self, end: PipeEnd) -> &mut Pipe {
        match end {
            PipeEnd::Client => &mut self.from_client,
            PipeEnd::Server => &mut self.from_server,
        }
    }

    /// Writes as much as there is room for. Bytes for a reader that is gone are accepted as well,
    /// as by a kernel that doesn't know yet; the answer to them is a reset.
    fn poll_write(
        &mut self,
        end: PipeEnd,
        cx: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<(usize, [Wakers; 2])>> {
        let pipe = self.writing(end);
        if pipe.is_unread() {
            let n = bytes.len().min(pipe.capacity());
            let wakers = if n == 0 { Default::default() } else { self.reset() };
            return Poll::Ready(Ok((n, wakers)));
        }
        pipe.poll_write(cx, bytes).map_ok(|(n, reader)| (n, [[reader, None], [None, None]]))
    }

    fn reset(&mut self) -> [Wakers; 2] {
        [self.from_client.reset(), self.from_server.reset()]
    }

    /// The effect of the drop of an end on both directions.
    fn close(&mut self, end: PipeEnd, abort: bool) -> [Wakers; 2] {
        if abort || !self.reading(end).is_empty() {
            self.reset()
        } else {
            [self.writing(end).finish(), self.reading(end).unread()]
        }
    }
}

/// Called with the lock released, because a waker may run any code.
fn wake(wakers: impl IntoIterator<Item = Option<std::task::Waker>>) {
    wakers.into_iter().flatten().for_each(std::task::Waker::wake);
}

impl Io for MemoryStream {
    fn abort(&mut self) {
        self.abort = true;
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().reading(self.end).poll_readable(cx)
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let wakers = self.lock().close(self.end, self.abort);
        wake(wakers.into_iter().flatten());
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Otherwise two ends that never wait for each other would occupy their thread.
        let coop = ready!(poll_proceed(cx));
        let result = ready!(self.lock().reading(self.end).poll_read(cx, buf));
        coop.made_progress();
        Poll::Ready(result.map(|waker| wake([waker])))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let coop = ready!(poll_proceed(cx));
        let result = ready!(self.lock().poll_write(self.end, cx, bytes));
        coop.made_progress();
        Poll::Ready(result.map(|(n, wakers)| {
            wake(wakers.into_iter().flatten());
            n
        }))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Succeeds even when the connection is gone, as tokio's sockets do.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wakers = self.lock().writing(self.end).finish();
        wake(wakers);
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStream").field("end", &self.end).finish_non_exhaustive()
    }
}
