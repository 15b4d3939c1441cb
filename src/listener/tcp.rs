//! The TCP listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::{Addr, Peer, Stream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use super::HandOver;
use super::paced::{Accept, Paced};

/// Whether an accepted socket has its listener's options. Where that isn't known for sure they are set on each.
const INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A bound TCP socket.
pub(crate) struct Tcp {
    socket: tokio::net::TcpListener,
    local: SocketAddr,
}

/// Binds to one address and listens.
pub(crate) fn bind(addr: SocketAddr, backlog: i32) -> io::Result<Paced<Tcp>> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A server that starts again does not wait for the connections its predecessor closed.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    set_options(&SockRef::from(&socket))?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    from_socket(socket)
}

/// Takes over a socket that another process has bound and listens on.
pub(super) fn adopt(socket: Socket) -> io::Result<Paced<Tcp>> {
    set_options(&SockRef::from(&socket))?;
    from_socket(socket)
}

fn from_socket(socket: Socket) -> io::Result<Paced<Tcp>> {
    let socket = tokio::net::TcpListener::from_std(socket.into())?;
    let local = socket.local_addr()?;
    Ok(Paced::new(Tcp { socket, local }))
}

/// No delay for small writes; a peer that vanished without a word is noticed after two minutes.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);
    socket.set_tcp_keepalive(&keepalive)
}

impl Accept for Tcp {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let (stream, addr) = ready!(self.socket.poll_accept(cx))?;
        if !INHERITED {
            // A connection that is reset already refuses options; whoever reads from it will hear of that.
            drop(set_options(&SockRef::from(&stream)));
        }
        Poll::Ready(Ok((stream.into(), Peer::new(addr))))
    }

    fn accept_now(&mut self) -> io::Result<(Stream, Peer)> {
        let (socket, addr) = SockRef::from(&self.socket).accept()?;
        socket.set_nonblocking(true)?;
        let stream = TcpStream::from_std(socket.into())?;
        let peer = addr.as_socket().map_or_else(|| stream.peer_addr(), Ok)?;
        Ok((stream.into(), Peer::new(peer)))
    }

    fn local_addr(&self) -> Addr {
        self.local.into()
    }

    fn hand_over(&self) -> HandOver<'_> {
        HandOver { socket: self.socket.as_fd(), path: None }
    }
}
