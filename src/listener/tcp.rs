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

use super::HandOver;
use super::opened::Opened;
use super::paced::{Accept, Paced};

/// Whether an accepted socket has its listener's options. Where that isn't known for sure they are set on each.
const INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Whether the kernel shares connections out among the sockets of one port (`SO_REUSEPORT`). Elsewhere the option lets
/// several sockets have it, and one of them gets all.
const SHARED_OUT: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// How much the kernel takes that it can't send yet. Without it, it takes megabytes, and is then heard of again only when a
/// good part of those is gone: a peer that reads steadily would look as if it took nothing for minutes. With it, it is heard
/// of when half of so much is gone, which in a write stall is little more than the least that a peer has to take.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 32 * 1024;

/// A bound TCP socket.
pub(crate) struct Tcp {
    socket: tokio::net::TcpListener,
    local: SocketAddr,
}

/// Binds so many sockets to one address, and listens on each: the kernel shares the connections out among them. Where it
/// doesn't, it is one socket. Whether one of IPv6 takes IPv4 as well is left to the system unless it is said.
pub(crate) fn open(addr: SocketAddr, v6_only: Option<bool>, backlog: i32, sockets: usize) -> io::Result<Vec<Opened>> {
    let socket = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A server that starts again does not wait for the connections its predecessor closed.
        required("SO_REUSEADDR", socket.set_reuse_address(true))?;
        if let Some(only) = v6_only {
            required("IPV6_V6ONLY", socket.set_only_v6(only))?;
        }
        socket.set_nonblocking(true)?;
        set_options(&SockRef::from(&socket))?;
        io::Result::Ok(socket)
    };
    let first = socket()?;
    // Bound before it may share its address: so a port that another server has is found out, even if that one shares its
    // own.
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
    Ok(group.into_iter().map(|socket| Opened::new(socket, None)).collect())
}

/// Has the runtime watch a socket that listens, and whose backlog holds so many.
pub(super) fn watch(socket: Socket, backlog: usize) -> io::Result<Paced<Tcp>> {
    // Those of another process may have others.
    let refused = set_options(&SockRef::from(&socket))?;
    let socket = tokio::net::TcpListener::from_std(socket.into())?;
    let local = socket.local_addr()?;
    for (option, error) in refused {
        let listener = Addr::Tcp(local);
        aside!(WARN, %listener, option, %error, "the system refuses a socket option, and it is left out");
    }
    Ok(Paced::new(Tcp { socket, local }, backlog))
}

/// No delay for small writes; a peer that vanished without a word is noticed after two minutes, and one that reads slowly is
/// seen to read. Returns the options that the system refuses, of those that it works without.
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
    // No memory is taken where all are there.
    Ok(set.into_iter().filter_map(|(option, set)| Some((option, set.err()?))).collect())
}

/// The error names the option.
fn required(option: &str, set: io::Result<()>) -> io::Result<()> {
    set.map_err(|error| io::Error::new(error.kind(), format!("the system refuses the socket option {option}: {error}")))
}

impl Accept for Tcp {
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
