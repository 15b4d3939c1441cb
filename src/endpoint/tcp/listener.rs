//! The TCP listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::event::aside;
use ropewalk_middleware::{Addr, Peer, Stream};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use crate::listener::opened::OpenSocket;
use crate::listener::paced::{Paced, SocketListener};
use crate::listener::{HandOver, Listener};

/// Whether an accepted socket inherits its listener's options. On systems where that is uncertain,
/// they are set on each socket.
const INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Whether the kernel distributes connections among the sockets of one port (`SO_REUSEPORT`). On
/// other systems the option allows several sockets, but one of them gets all connections.
const SHARED_OUT: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// How many unsent bytes the kernel accepts. Without this option it accepts megabytes, and reports
/// the socket writable again only when a good part of them is sent: a peer that reads steadily
/// would look for minutes as if it accepted nothing. With it, the socket is reported writable when
/// half of this is sent, about as much as a peer has to accept anyway in the time of a write stall.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 32 * 1024;

/// A bound TCP socket.
struct Tcp {
    socket: tokio::net::TcpListener,
    local: SocketAddr,
}

/// Binds this many sockets to one address, and listens on each: the kernel distributes the
/// connections among them. On systems where it doesn't, there is one socket. With `v6_only` as
/// `None` the system decides whether an IPv6 socket accepts IPv4 as well.
pub(crate) fn open(
    addr: SocketAddr,
    v6_only: Option<bool>,
    backlog: i32,
    sockets: usize,
) -> io::Result<Vec<OpenSocket>> {
    let socket = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // So a restarted server can bind while connections of the previous one are in TIME_WAIT.
        required("SO_REUSEADDR", socket.set_reuse_address(true))?;
        if let Some(only) = v6_only {
            required("IPV6_V6ONLY", socket.set_only_v6(only))?;
        }
        socket.set_nonblocking(true)?;
        set_options(&SockRef::from(&socket))?;
        io::Result::Ok(socket)
    };
    let first = socket()?;
    // Bound before the option is set, so that a port in use by another server is an error, even if
    // that server shares the port.
    first.bind(&addr.into())?;
    let addr = first.local_addr()?;
    let mut group = vec![first];
    for _ in 1..if SHARED_OUT { sockets } else { 1 } {
        let next = socket()?;
        required("SO_REUSEPORT", group[0].set_reuse_port(true))?;
        required("SO_REUSEPORT", next.set_reuse_port(true))?;
        next.bind(&addr)?;
        group.push(next);
    }
    group.iter().try_for_each(|socket| socket.listen(backlog))?;
    Ok(group.into_iter().map(|socket| OpenSocket::new(socket, None)).collect())
}

/// Registers a listening socket with the runtime. `backlog` is the most connections that can wait
/// in it.
pub(in crate::endpoint) fn watch(
    opened: OpenSocket,
    backlog: usize,
) -> io::Result<Box<dyn Listener>> {
    let socket = Socket::from(opened.socket);
    // A socket of another process may have other options.
    let refused = set_options(&SockRef::from(&socket))?;
    let socket = tokio::net::TcpListener::from_std(socket.into())?;
    let local = socket.local_addr()?;
    for (option, error) in refused {
        let listener = Addr::Tcp(local);
        aside!(WARN, %listener, option, %error, "the system refuses a socket option, and it is left out");
    }
    Ok(Box::new(Paced::new(Tcp { socket, local }, backlog)))
}

/// Sets the options: no delay for small writes; keepalive, so that a peer that vanished is noticed
/// after two minutes; and a small unsent buffer, so that a slow reader is seen to read. Returns the
/// optional ones that the system refuses.
pub(crate) fn set_options(socket: &SockRef<'_>) -> io::Result<Vec<(&'static str, io::Error)>> {
    required("SO_KEEPALIVE", socket.set_keepalive(true))?;
    let probes = |keepalive| socket.set_tcp_keepalive(&keepalive);
    let set = [
        ("TCP_NODELAY", socket.set_tcp_nodelay(true)),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(UNSENT)),
        ("TCP_KEEPIDLE", probes(TcpKeepalive::new().with_time(Duration::from_secs(60)))),
        ("TCP_KEEPINTVL", probes(TcpKeepalive::new().with_interval(Duration::from_secs(10)))),
        ("TCP_KEEPCNT", probes(TcpKeepalive::new().with_retries(6))),
    ];
    // No memory is allocated if all options are set.
    Ok(set.into_iter().filter_map(|(option, set)| Some((option, set.err()?))).collect())
}

/// The error names the option.
fn required(option: &str, set: io::Result<()>) -> io::Result<()> {
    set.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the system refuses the socket option {option}: {error}"),
        )
    })
}

impl SocketListener for Tcp {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let (stream, addr) = ready!(self.socket.poll_accept(cx))?;
        if !INHERITED {
            // A connection that is reset already refuses options; a read from it will report that.
            drop(set_options(&SockRef::from(&stream)));
        }
        Poll::Ready(Ok((stream.into(), Peer::new(addr))))
    }

    fn take_waiting(&self) -> io::Result<(Socket, SockAddr)> {
        SockRef::from(&self.socket).accept()
    }

    fn watch(socket: Socket, from: &SockAddr) -> io::Result<(Stream, Peer)> {
        socket.set_nonblocking(true)?;
        if !INHERITED {
            drop(set_options(&SockRef::from(&socket)));
        }
        let stream = TcpStream::from_std(socket.into())?;
        let peer = from.as_socket().map_or_else(|| stream.peer_addr(), Ok)?;
        Ok((stream.into(), Peer::new(peer)))
    }

    fn local_addr(&self) -> Addr {
        self.local.into()
    }

    fn hand_over(&self) -> HandOver<'_> {
        HandOver { socket: self.socket.as_fd(), path: None }
    }
}
