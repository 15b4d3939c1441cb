//! The connection: what every layer sees.

mod activity;
mod addr;
mod budget;
mod closing;
mod deadlines;
mod info;
mod linger;
mod peer;
mod shared;
mod stats;
mod stream;
mod tls;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use self::activity::ConnectionState;
pub use self::addr::Addr;
pub use self::budget::{Marks, MemoryBudget};
pub use self::closing::{CloseReason, Closing};
pub use self::deadlines::ReadDeadlines;
pub use self::info::ConnectionInfo;
pub use self::linger::{LINGER, LINGER_BYTES, LingeringClose};
pub(crate) use self::peer::host;
pub use self::peer::{Credentials, Peer, Proxied};
pub use self::stats::Stats;
pub use self::stream::{Io, Stream};
pub use self::tls::{TlsInfo, TlsVersion};

use self::shared::Shared;
use crate::Escaped;

/// One accepted connection, of any kind: a byte stream, and the peer at the other end.
///
/// It is one concrete type, so one service serves every kind of listener. It counts the bytes that pass, and its
/// [`Closing`] and [`Stats`] handles may be kept when the connection itself has moved on.
///
/// ```
/// use ropewalk_middleware::{Addr, Connection, Peer};
/// # async fn doc() -> std::io::Result<()> {
/// let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let (stream, addr) = tcp.accept().await?;
/// let connection = Connection::new(stream, Peer::new(addr));
/// println!("connection {} from {}", connection.id(), connection.peer());
/// # Ok(())
/// # }
/// ```
pub struct Connection {
    /// Taken only as the connection itself is taken apart.
    stream: Option<Stream>,
    /// Its counters, and with them everything that its handles share.
    stats: Stats,
    /// The deadlines it was given. Boxed, because most connections were given no deadlines and need no space for them.
    read_deadlines: Option<Box<ReadDeadlines>>,
}

impl Connection {
    /// A connection of a listener that has no number (it is given 0).
    pub fn new(stream: impl Into<Stream>, peer: Peer) -> Self {
        Self::accepted(stream.into(), peer, 0)
    }

    /// A connection that came in on the server's `listener`th endpoint.
    pub fn accepted(stream: Stream, peer: Peer, listener: usize) -> Self {
        let stats = Stats(Arc::new(Shared::new(peer, listener)));
        Self { stream: Some(stream), stats, read_deadlines: None }
    }

    /// The same connection with another local address than its socket's; for transports without addresses of their own.
    #[must_use = "it is the connection from here on: dropped, it closes"]
    pub fn with_local(self, local: Addr) -> Self {
        // Set before? Then the first stands.
        self.shared().set_local(local.canonical());
        self
    }

    /// The same connection over other bytes: a layer that encrypts, counts or replays wraps the stream here.
    #[must_use = "it is the connection from here on: dropped, it closes"]
    pub fn map_stream(self, f: impl FnOnce(Stream) -> Stream) -> Self {
        let local = self.local();
        let mut this = self.with_local(local);
        this.stream = this.stream.take().map(f);
        this
    }

    /// The same connection with these deadlines for its frames.
    #[must_use = "it is the connection from here on: dropped, it closes"]
    pub fn with_read_deadlines(mut self, deadlines: ReadDeadlines) -> Self {
        self.set_read_deadlines(deadlines);
        self
    }

    /// Changes these deadlines, for the code that keeps them. Given [`ReadDeadlines::OFF`] it has no deadline,
    /// not even that of a leaf for a frame that has begun.
    pub fn set_read_deadlines(&mut self, deadlines: ReadDeadlines) {
        self.shared().forget_read_deadlines();
        self.read_deadlines = Some(Box::new(deadlines));
    }

    /// How long its peer is waited for. The code that reads the frames keeps these deadlines.
    pub fn read_deadlines(&self) -> ReadDeadlines {
        self.given_read_deadlines().unwrap_or(ReadDeadlines::OFF)
    }

    /// The same, where any were given: by a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer), on the way, or by
    /// [`ConnectionInfo::set_read_deadlines`]. They take the place of a leaf's own.
    #[inline]
    pub fn given_read_deadlines(&self) -> Option<ReadDeadlines> {
        let own = self.read_deadlines.as_deref().copied();
        // Asked at each wait: most connections have nothing rare to look at.
        if self.shared().has_rare() { self.shared().read_deadlines().or(own) } else { own }
    }

    /// Puts another stream in place and returns the one that was there, to be wrapped and put back. Handles on the
    /// connection stay valid, and the local address stays the same.
    pub fn replace_stream(&mut self, stream: Stream) -> Stream {
        // Set before? Then it stays so.
        self.shared().set_local(self.local());
        // As in `stream`.
        self.stream.replace(stream).expect("a connection has its stream until it is taken apart")
    }

    /// Notes that the bytes are encrypted from here on, where that came later than the connection (STARTTLS). The first
    /// handshake stands.
    pub fn set_tls(&self, tls: TlsInfo) {
        self.shared().know(self.peer().clone().with_tls(tls));
    }

    /// What the TLS handshake settled (server name, ALPN, version, certificates); `None` where there is no TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.peer().tls()
    }

    /// The transport underneath.
    pub fn stream(&self) -> &Stream {
        // Taking the stream out takes the connection by value.
        self.stream.as_ref().expect("a connection has its stream until it is taken apart")
    }

    /// The peer at the other end.
    pub fn peer(&self) -> &Peer {
        self.shared().peer()
    }

    /// The address of this end: its socket's, behind a proxy as well. Where a client had connected to is known to
    /// [`Proxied::destination`](crate::proxy::Proxied::destination).
    pub fn local(&self) -> Addr {
        if let Some(addr) = self.shared().local() {
            return addr.clone();
        }
        self.stream().local_addr().unwrap_or(Addr::Memory)
    }

    /// A number no other connection of this process has or had.
    pub fn id(&self) -> u64 {
        self.shared().id
    }

    /// Which of the server's endpoints it came in on: 0 is the first.
    pub fn listener(&self) -> usize {
        self.shared().listener()
    }

    /// Its end: the drain and abort signals, and the reason.
    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.stats.0))
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// A handle on all that is known of it, to list, ask, drain or abort it from elsewhere.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo(Arc::clone(&self.stats.0))
    }

    fn shared(&self) -> &Shared {
        &self.stats.0
    }

    /// Breaks the connection: the peer sees a reset, and nothing that was not yet taken by the kernel is sent.
    ///
    /// A Unix socket can't be told to reset: it is closed, and the peer sees an end unless something it sent was not
    /// read. A stream of another kind does what its [`Io::abort`] says.
    pub fn abort(mut self) {
        self.closing().set_reason(CloseReason::Aborted);
        // Not `Closing::abort`: that ends the task as well, and with it what its author has still to do.
        if let Some(stream) = &mut self.stream {
            stream.abort();
        }
    }

    /// Notes whether what was written is part of something whose rest is still to be written. Dropped while it is, by a
    /// panic or a timeout around it say, the connection ends in a reset, so that the part does not look whole.
    /// For the code that keeps the rest.
    pub fn set_partial(&self, partial: bool) {
        self.shared().closing.set_partial(partial);
    }

    /// Ends the connection so that the peer can read everything that was written: see [`LingeringClose`].
    pub fn close(self) -> LingeringClose {
        LingeringClose::new(self)
    }

    /// The same for a connection that is kept: after dropping the future, closing can be resumed by another call. Drop
    /// the connection when the future is ready.
    pub fn close_mut(&mut self) -> LingeringClose<&mut Self> {
        LingeringClose::new(self)
    }

    /// Ends the connection after one write that waits for nothing; whatever is not taken at once is lost.
    pub(crate) fn write_once(mut self, bytes: &[u8]) {
        let written = self.stream.take().map_or(0, |stream| stream.write_once(bytes).unwrap_or(0));
        self.shared().counters.bytes_out.add(written as u64);
    }

    /// Writes what the kernel takes at this moment. The runtime may still believe that it takes nothing: it hears of
    /// the peer between two turns of its tasks only. 0 if nothing is taken, and on any other transport than the
    /// kernel's sockets.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.stream().write_now(bytes) {
            Ok(0) => Poll::Pending,
            written => Poll::Ready(written),
        };
        match self.written(written) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(0),
        }
    }

    fn io(&mut self) -> Pin<&mut Stream> {
        // As in `stream`.
        Pin::new(self.stream.as_mut().expect("a connection has its stream until it is taken apart"))
    }

    /// Counts what was written. A leaf says itself when bytes have moved: once for all that moved in its turn.
    fn written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let plain = self.shared().activity.is_plain();
        if plain {
            self.shared().activity.set_blocked(polled.is_pending());
        }
        let result = ready!(polled);
        let written = *result.as_ref().unwrap_or(&0) as u64;
        self.shared().counters.bytes_out.add(written);
        if written > 0 && plain {
            self.shared().moved();
        }
        Poll::Ready(self.note(result))
    }

    /// Notes a peer that is gone, so that the reason can name it.
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && is_lost(error)
        {
            self.shared().closing.lost();
        }
        result
    }
}

/// The counters without another handle on them, for code that counts each frame.
impl AsRef<Stats> for Connection {
    #[inline]
    fn as_ref(&self) -> &Stats {
        &self.stats
    }
}

impl Drop for Connection {
    /// A connection that was told to abort ends in a reset, wherever it is dropped, and so does one with something half
    /// written, which must not look whole.
    fn drop(&mut self) {
        // Its buffers go with it.
        self.set_buffered(0);
        if self.shared().closing.ends_in_reset()
            && let Some(stream) = &mut self.stream
        {
            stream.abort();
        }
    }
}

/// Whether an I/O error says that the peer, or the way to it, is gone.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionReset
            | K::BrokenPipe
            | K::ConnectionAborted
            | K::NotConnected
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
    )
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            // A Unix socket's path is the peer's choice.
            .field("peer", &format_args!("{}", Escaped::display(self.peer())))
            .field("listener", &self.listener())
            .field("stream", self.stream())
            .finish()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = ready!(this.io().poll_read(cx, buf));
        let read = (buf.filled().len() - before) as u64;
        this.shared().counters.bytes_in.add(read);
        if read > 0 && this.shared().activity.is_plain() {
            this.shared().moved();
        }
        Poll::Ready(this.note(result))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.io().poll_write(cx, buf);
        this.written(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.io().poll_write_vectored(cx, bufs);
        this.written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(this.io().poll_flush(cx));
        Poll::Ready(this.note(result))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(this.io().poll_shutdown(cx));
        Poll::Ready(this.note(result))
    }
}
