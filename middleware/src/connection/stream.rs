//! The byte stream of a connection, over any transport.

use std::fmt;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;

use super::addr::Addr;

/// A byte stream that is not a kernel socket: TLS, in-process, a foreign transport.
///
/// Implement it for your own types that can be reset; [`Stream::from_io`] accepts any others.
///
/// Each read and write uses tokio's budget for one turn of a task, as those of kernel sockets do:
/// when it is used up, the stream is not polled before the next turn. An implementation need not
/// handle the budget itself.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Makes the following drop a reset, so that the peer doesn't see an orderly end.
    fn abort(&mut self) {}

    /// The address of this end, if the transport has one.
    fn local_addr(&self) -> Option<Addr> {
        None
    }

    /// How many bytes have arrived and were not read yet, if the transport knows: at least 1 if
    /// there are any, and not less than will be read, though it may be more (with TLS, it counts
    /// ciphertext). A drain reads that much.
    fn arrived(&self) -> Option<u64> {
        None
    }

    /// Ready when there is something to read (bytes, the end or an error), without reading it. By
    /// default it is ready at once, for transports that can't tell: such a connection counts as one
    /// that has sent something when preambles make room.
    fn poll_readable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The total of bytes passed on to the transport underneath, if the stream may buffer accepted
    /// bytes (as TLS does); else 0. It distinguishes a peer that reads its answers slowly from one
    /// that reads nothing.
    fn handed_on(&self) -> u64 {
        0
    }
}

/// The transport inside a [`Connection`](super::Connection).
#[non_exhaustive]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// Anything else.
    Boxed(Box<dyn Io>),
}

impl Stream {
    /// A stream of another kind.
    pub fn boxed(io: impl Io) -> Self {
        Self::Boxed(Box::new(io))
    }

    /// A stream of another crate's type, for which you can't implement [`Io`]. It can't be reset:
    /// [`Connection::abort`](super::Connection::abort) only drops it.
    ///
    /// ```
    /// use ropewalk_middleware::{Addr, Connection, Peer, Stream};
    ///
    /// let (ours, theirs) = tokio::io::duplex(1024);
    /// let connection = Connection::new(Stream::from_io(ours), Peer::new(Addr::Memory));
    /// ```
    pub fn from_io(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::boxed(Foreign(io))
    }

    /// The address of this end, if the transport has one. For an IPv4 connection to a socket of
    /// both families it is the IPv4 address.
    pub fn local_addr(&self) -> Option<Addr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(|addr| Addr::Tcp(addr).canonical()),
            Self::Unix(unix) => Some(unix.local_addr().map_or(Addr::Unix(None), Addr::from)),
            Self::Boxed(io) => io.local_addr(),
        }
    }

    /// How many bytes have arrived and were not read yet, if the transport knows: for a kernel
    /// socket the bytes in its buffer, else see [`Io::arrived`].
    pub fn arrived(&self) -> Option<u64> {
        match self {
            Self::Tcp(tcp) => ioctl_fionread(tcp).ok(),
            Self::Unix(unix) => ioctl_fionread(unix).ok(),
            Self::Boxed(io) => io.arrived(),
        }
    }

    /// Ready when there is something to read (bytes, the end or an error), without reading it; for
    /// transports other than kernel sockets see [`Io::poll_readable`].
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The runtime may consider a socket readable that was read empty, so the kernel is asked.
        macro_rules! peek {
            ($socket:expr) => {
                loop {
                    if ready!($socket.poll_read_ready(cx)).is_err() {
                        return Poll::Ready(());
                    }
                    let peek = || SockRef::from(&*$socket).peek(&mut [MaybeUninit::uninit()]);
                    match $socket.try_io(Interest::READABLE, peek) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        _ => return Poll::Ready(()),
                    }
                }
            };
        }
        match self {
            Self::Tcp(tcp) => peek!(tcp),
            Self::Unix(unix) => peek!(unix),
            Self::Boxed(io) => io.poll_readable(cx),
        }
    }

    /// How many bytes were passed on to the transport underneath: 0 for a kernel socket, which is
    /// the transport itself, else see [`Io::handed_on`].
    pub fn handed_on(&self) -> u64 {
        match self {
            Self::Boxed(io) => io.handed_on(),
            Self::Tcp(_) | Self::Unix(_) => 0,
        }
    }

    /// Writes as much as the kernel accepts at this moment; 0 if it accepts nothing, and for every
    /// other transport.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // A peer that is gone must not raise a signal. (On Apple's systems an option of the socket
        // prevents it.)
        #[cfg(not(target_vendor = "apple"))]
        let flags = SendFlags::NOSIGNAL;
        #[cfg(target_vendor = "apple")]
        let flags = SendFlags::empty();
        let sent = match self {
            Self::Tcp(tcp) => send(tcp, bytes, flags),
            Self::Unix(unix) => send(unix, bytes, flags),
            Self::Boxed(_) => Ok(0),
        };
        match sent {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Writes as much as is accepted at once, and closes.
    pub(super) fn write_once(self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // A runtime may consider a new socket not writable until it is notified (tokio long
            // did, and does for foreign sockets). So the kernel is asked directly; the socket stays
            // non-blocking.
            Self::Tcp(tcp) => tcp.into_std()?.write(bytes),
            Self::Unix(unix) => unix.into_std()?.write(bytes),
            Self::Boxed(mut io) => {
                let mut cx = Context::from_waker(Waker::noop());
                let written = match Pin::new(&mut *io).poll_write(&mut cx, bytes) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Ok(0),
                };
                // The closing message of a transport that has one (as TLS), if it is accepted at
                // once as well.
                let _ = Pin::new(&mut *io).poll_shutdown(&mut cx);
                written
            }
        }
    }

    /// Makes the following drop a reset, if the transport can do that.
    pub fn abort(&mut self) {
        match self {
            // If the option can't be set, the socket is closed in the ordinary way.
            Self::Tcp(tcp) => drop(SockRef::from(&*tcp).set_linger(Some(Duration::ZERO))),
            Self::Unix(_) => {}
            Self::Boxed(io) => io.abort(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Self {
        Self::Unix(unix)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Boxed(_) => "Boxed",
        })
    }
}

/// A stream of another crate's type, with the defaults of `Io`.
struct Foreign<T>(T);

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for Foreign<T> {}

impl<T: AsyncRead + Unpin> AsyncRead for Foreign<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Foreign<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Reads from or writes to a transport that may not know of tokio's budget for one turn of a task.
fn poll_in_turn<T>(
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if !coop::has_budget_remaining() {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    let output = ready!(poll(cx));
    // The budget is used only now. If it were used before the poll, the last unit would be missing
    // for a transport that uses the budget too, and then be returned; a spent budget could not be
    // distinguished from an empty transport.
    if let Poll::Ready(budget) = coop::poll_proceed(&mut Context::from_waker(Waker::noop())) {
        budget.made_progress();
    }
    Poll::Ready(output)
}

/// Runs one poll method on the transport.
macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp(io) => {
                let $io = Pin::new(io);
                $call
            }
            Stream::Unix(io) => {
                let $io = Pin::new(io);
                $call
            }
            Stream::Boxed(io) => {
                let $io = Pin::new(&mut **io);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Self::Boxed(io) => poll_in_turn(cx, |cx| Pin::new(&mut **io).poll_read(cx, buf)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Self::Boxed(io) => poll_in_turn(cx, |cx| Pin::new(&mut **io).poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // For a single buffer the plain call is cheaper, both in the kernel and in TLS.
        if let [buf] = bufs {
            return self.poll_write(cx, buf);
        }
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Boxed(io) => {
                poll_in_turn(cx, |cx| Pin::new(&mut **io).poll_write_vectored(cx, bufs))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
            Self::Boxed(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_shutdown(cx))
    }
}
