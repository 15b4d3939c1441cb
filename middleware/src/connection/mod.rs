//! The connection that every layer sees.

mod activity;
mod addr;
mod budget;
mod closing;
mod deadlines;
mod info;
mod linger;
mod peer;
mod reason;
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
pub(crate) use self::budget::BudgetRef;
pub use self::budget::{Marks, MemoryBudget};
pub use self::closing::Closing;
pub use self::deadlines::ReadDeadlines;
pub use self::info::ConnectionInfo;
pub use self::linger::{LINGER, LINGER_BYTES, LingeringClose};
pub(crate) use self::peer::host;
pub use self::peer::{Credentials, Peer, Proxied};
pub use self::reason::{CloseReason, PerReason};
pub use self::stats::Stats;
pub use self::stream::{Io, Stream};
pub use self::tls::{TlsInfo, TlsVersion};

use self::shared::ConnectionShared;
use crate::Escaped;

/// One accepted connection, of any kind: a byte stream, and the peer at the other end.
///
/// It is one concrete type, so one service serves every kind of listener. It counts the bytes that
/// pass. Its [`Closing`] and [`Stats`] handles stay valid when the connection itself has been
/// passed on.
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
    /// `None` only while the connection is taken apart.
    stream: Option<Stream>,
    /// Its counters, which also give access to everything that its handles share.
    stats: Stats,
    /// The deadlines it was given. Boxed, because most connections were given no deadlines and need
    /// no space for them.
    read_deadlines: Option<Box<ReadDeadlines>>,
}

impl Connection {
    /// A connection of a listener without a number; it gets 0.
    pub fn new(stream: impl Into<Stream>, peer: Peer) -> Self {
        Self::accepted(stream.into(), peer, 0)
    }

    /// A connection that was accepted by the server's `listener`th endpoint.
    pub fn accepted(stream: Stream, peer: Peer, listener: usize) -> Self {
        let stats = Stats(Arc::new(ConnectionShared::new(peer, listener)));
        Self { stream: Some(stream), stats, read_deadlines: None }
    }

    /// The same connection with another local address than its socket's, for transports without
    /// addresses.
    #[must_use = "it is the connection from here on: dropped, it closes"]
    pub fn with_local(self, local: Addr) -> Self {
        // The first address stays.
        self.shared().set_local(local.canonical());
        self
    }

    /// The same connection with another stream: a layer that encrypts, counts or replays wraps the
    /// stream here.
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

    /// Replaces these deadlines, which the leaf enforces. With [`ReadDeadlines::OFF`] the
    /// connection has no read deadline, not even that of a leaf for a frame that has begun.
    pub fn set_read_deadlines(&mut self, deadlines: ReadDeadlines) {
        self.shared().forget_read_deadlines();
        self.read_deadlines = Some(Box::new(deadlines));
    }

    /// Its read deadlines, which the code that reads the frames has to enforce.
    pub fn read_deadlines(&self) -> ReadDeadlines {
        self.given_read_deadlines().unwrap_or(ReadDeadlines::OFF)
    }

    /// The same, if any were set: by a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer), by other
    /// code before the leaf, or by [`ConnectionInfo::set_read_deadlines`]. They replace the leaf's
    /// own.
    #[inline]
    pub fn given_read_deadlines(&self) -> Option<ReadDeadlines> {
        let own = self.read_deadlines.as_deref().copied();
        // Called at each wait, and most connections have no rare values.
        if self.shared().has_rare() { self.shared().read_deadlines().or(own) } else { own }
    }

    /// Replaces the stream and returns the previous one, to be wrapped and put back. Handles on the
    /// connection stay valid, and the local address stays the same.
    pub fn replace_stream(&mut self, stream: Stream) -> Stream {
        // An address that was set before stays.
        self.shared().set_local(self.local());
        // As in `stream`.
        self.stream.replace(stream).expect("a connection has its stream until it is taken apart")
    }

    /// Notes that the connection is encrypted from here on, after it began in plaintext (STARTTLS).
    /// The first handshake stays.
    pub fn set_tls(&self, tls: TlsInfo) {
        self.shared().know(self.peer().clone().with_tls(tls));
    }

    /// The result of the TLS handshake (server name, ALPN, version, certificates); `None` without
    /// TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.peer().tls()
    }

    /// The transport underneath.
    pub fn stream(&self) -> &Stream {
        // The stream is taken out only with the connection by value.
        self.stream.as_ref().expect("a connection has its stream until it is taken apart")
    }

    /// The peer at the other end.
    pub fn peer(&self) -> &Peer {
        self.shared().peer()
    }

    /// The address of this end: that of its socket, even behind a proxy.
    /// [`Proxied::destination`](crate::proxy::Proxied::destination) is the address that a client
    /// behind a proxy connected to.
    pub fn local(&self) -> Addr {
        if let Some(addr) = self.shared().local() {
            return addr.clone();
        }
        self.stream().local_addr().unwrap_or(Addr::Memory)
    }

    /// A number that is unique among all connections of this process, past ones included.
    pub fn id(&self) -> u64 {
        self.shared().id
    }

    /// The index of the server's endpoint that accepted it: 0 is the first.
    pub fn listener(&self) -> usize {
        self.shared().listener()
    }

    /// Its drain and abort signals, and the reason for its end.
    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.stats.0))
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// A handle to list, inspect, drain or abort the connection from elsewhere.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo(Arc::clone(&self.stats.0))
    }

    fn shared(&self) -> &ConnectionShared {
        &self.stats.0
    }

    /// Breaks the connection: the peer sees a reset, and data that the kernel has not accepted yet
    /// is not sent.
    ///
    /// A Unix socket can't be reset: it is closed, and the peer sees an end of the stream, or a
    /// reset if something it sent was not read. For a stream of another kind, [`Io::abort`]
    /// decides.
    pub fn abort(mut self) {
        self.closing().set_reason(CloseReason::Aborted);
        // Not `Closing::abort`, which would also end the task, and with it the code after this
        // call.
        if let Some(stream) = &mut self.stream {
            stream.abort();
        }
    }

    /// Notes whether the bytes written so far end within a frame whose rest is still to be written.
    /// If the connection is dropped in that state, for example by a panic or a timeout, it ends in
    /// a reset, so that the part does not look whole. The code that holds the rest calls it.
    pub fn set_partial(&self, partial: bool) {
        self.shared().closing.set_partial(partial);
    }

    /// Ends the connection so that the peer can read everything that was written: see
    /// [`LingeringClose`].
    pub fn close(self) -> LingeringClose {
        LingeringClose::new(self)
    }

    /// The same for a connection that is kept: after dropping the future, closing can be resumed by
    /// another call. Drop the connection when the future is ready.
    pub fn close_mut(&mut self) -> LingeringClose<&mut Self> {
        LingeringClose::new(self)
    }

    /// Ends the connection after one write without waiting; bytes that are not accepted at once are
    /// lost.
    pub(crate) fn write_once(mut self, bytes: &[u8]) {
        let written = self.stream.take().map_or(0, |stream| stream.write_once(bytes).unwrap_or(0));
        self.shared().counters.bytes_out.add(written as u64);
    }

    /// Writes as much as the kernel accepts at this moment. The runtime may still consider the
    /// socket not writable, because it is notified only between two turns of its tasks. Returns 0
    /// if nothing is accepted, and for every transport that is not a kernel socket.
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

    /// Counts written bytes. A leaf reports itself when bytes have moved, once in each turn.
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

    /// Notes that the peer is gone, so that the close reason can say so.
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && is_lost(error)
        {
            self.shared().closing.lost();
        }
        result
    }
}

/// The counters by reference, for code that counts each frame.
impl AsRef<Stats> for Connection {
    #[inline]
    fn as_ref(&self) -> &Stats {
        &self.stats
    }
}

impl Drop for Connection {
    /// A connection that was told to abort ends in a reset, wherever it is dropped, and so does one
    /// with a partly written frame, which must not look whole.
    fn drop(&mut self) {
        // Its buffers are dropped with it.
        self.set_buffered(0);
        if self.shared().closing.ends_in_reset()
            && let Some(stream) = &mut self.stream
        {
            stream.abort();
        }
    }
}

/// Whether an I/O error means that the peer, or the network path to it, is gone.
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
            // Escaped, because the peer chooses its Unix socket's path.
            .field("peer", &format_args!("{}", Escaped::display(self.peer())))
            .field("listener", &self.listener())
            .field("stream", self.stream())
            .finish()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
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
