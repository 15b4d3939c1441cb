//! The Unix socket listener.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::{Addr, Credentials, Peer, Stream};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::listener::opened::OpenSocket;
use crate::listener::paced::{Paced, SocketListener};
use crate::listener::path::{BoundPath, PathAccess, in_use, lock_directory, remove_stale};
use crate::listener::{HandOver, Listener};

/// A bound Unix socket.
struct Unix {
    // Dropped before the socket: while that is open no other file can get its inode number, so the
    // path's file is identified by it.
    path: Option<BoundPath>,
    local: Addr,
    socket: tokio::net::UnixListener,
}

/// Binds to a path and listens. The path is not reachable before it has its owner and its mode.
pub(super) async fn open(path: &Path, backlog: i32, access: &PathAccess) -> io::Result<OpenSocket> {
    let addr = SockAddr::unix(path)?;
    // Held until the socket listens: before that a live socket looks like a stale one.
    let _lock = lock_directory(path).await;
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(mode) = access.mode {
        socket = with_mode(socket, mode);
    }
    match socket.bind(&addr) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, &addr)?;
            socket.bind(&addr)?;
        }
        bound => bound?,
    }
    // From here on, any error removes the path again.
    let bound = BoundPath::new(path)?;
    bound.set_access(access)?;
    socket.listen(backlog)?;
    if !bound.is_ours() {
        // Another server started at the same moment and could not lock the directory. It found a
        // socket that did not listen yet, and replaced it.
        return Err(in_use("another server took the path over while this one started"));
    }
    Ok(OpenSocket::new(socket, Some(bound)))
}

/// Binds to a name in the abstract namespace (a path that begins with NUL) and listens. Such a name
/// has no file: it is released with its last socket.
pub(super) fn open_abstract(name: &Path, backlog: i32) -> io::Result<OpenSocket> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        let text = "only Linux has abstract names: listen on a path, unix:/run/x.sock";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(name)?)?;
    socket.listen(backlog)?;
    Ok(OpenSocket::new(socket, None))
}

/// Registers a listening socket with the runtime. `backlog` is the most connections that can wait
/// in it.
pub(in crate::endpoint) fn watch(
    opened: OpenSocket,
    backlog: usize,
) -> io::Result<Box<dyn Listener>> {
    let OpenSocket { path, socket } = opened;
    let socket = Socket::from(socket);
    let local = unix_addr(&socket.local_addr()?);
    let socket = tokio::net::UnixListener::from_std(OwnedFd::from(socket).into())?;
    Ok(Box::new(Paced::new(Unix { path, local, socket }, backlog)))
}

/// Sets the mode of the socket itself, which Linux gives to the path, reduced by the umask, when
/// the socket is bound: so the path never has wider permissions than requested. On other systems
/// this fails or does nothing, and only the mode set after binding counts.
fn with_mode(socket: Socket, mode: u32) -> Socket {
    let file = File::from(OwnedFd::from(socket));
    drop(file.set_permissions(Permissions::from_mode(mode)));
    OwnedFd::from(file).into()
}

fn unix_addr(addr: &SockAddr) -> Addr {
    match addr.as_abstract_namespace() {
        Some(name) => Addr::Abstract(name.into()),
        None => Addr::Unix(addr.as_pathname().map(Into::into)),
    }
}

fn with_peer(stream: tokio::net::UnixStream, addr: Addr) -> (Stream, Peer) {
    let peer = Peer::new(addr);
    // A connection without credentials is accepted; code that needs them checks for them.
    let peer = match stream.peer_cred() {
        Ok(cred) => peer.with_credentials(Credentials::from(cred)),
        Err(_) => peer,
    };
    (stream.into(), peer)
}

impl SocketListener for Unix {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let (stream, addr) = ready!(self.socket.poll_accept(cx))?;
        Poll::Ready(Ok(with_peer(stream, addr.into())))
    }

    fn take_waiting(&self) -> io::Result<(Socket, SockAddr)> {
        SockRef::from(&self.socket).accept()
    }

    fn watch(socket: Socket, from: &SockAddr) -> io::Result<(Stream, Peer)> {
        socket.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(OwnedFd::from(socket).into())?;
        Ok(with_peer(stream, unix_addr(from)))
    }

    fn local_addr(&self) -> Addr {
        self.local.clone()
    }

    fn hand_over(&self) -> HandOver<'_> {
        HandOver { socket: self.socket.as_fd(), path: self.path.as_ref() }
    }

    fn set_owner(&mut self, ours: bool) {
        if let Some(path) = &mut self.path {
            path.set_owned(ours);
        }
    }
}
