//! The connection that every layer sees.

mod activity;
mod addr;
mod budget;
mod closing;
mod deadlines;
mod info;
mod linger;
mod observer;
mod peer;
mod reason;
mod shared;
mod stats;
mod stream;
mod tls;
mod transfer;

use std::fmt;
use std::sync::Arc;

pub use self::activity::ConnectionState;
pub use self::addr::Addr;
pub(crate) use self::budget::BudgetRef;
pub use self::budget::{Marks, MemoryBudget};
pub use self::closing::Closing;
pub use self::deadlines::ReadDeadlines;
pub use self::info::ConnectionInfo;
pub use self::linger::{LINGER, LINGER_BYTES, LingeringClose};
pub(crate) use self::observer::{ByteObserver, Moved};
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
        self.stream.as_ref().and_then(Stream::local_addr).unwrap_or(Addr::Memory)
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
        let is_reset = self.shared().closing.ends_in_reset();
        self.show(Moved::Ended { is_reset });
        if is_reset && let Some(stream) = &mut self.stream {
            stream.abort();
        }
    }
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
