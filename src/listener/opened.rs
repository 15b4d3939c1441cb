//! A listening socket that no runtime watches yet: of this process, or taken over from another.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname};
use socket2::{SockRef, Socket};

use super::path::BoundPath;

/// A listening socket that no runtime watches yet, and its path if this process has to remove it.
pub(crate) struct OpenSocket {
    // Dropped before the socket: while that is open no other file can get its inode number, so the
    // path's file is identified by it.
    pub(crate) path: Option<BoundPath>,
    pub(crate) socket: OwnedFd,
}

impl OpenSocket {
    pub(crate) fn new(socket: Socket, path: Option<BoundPath>) -> Self {
        Self { path, socket: socket.into() }
    }

    /// Checks that a socket of another process can accept connections, and prepares it for this
    /// process. With `backlog` it calls `listen` again, which changes only how many connections may
    /// wait. Returns its address family.
    pub(crate) fn prepare(&self, backlog: Option<i32>) -> io::Result<AddressFamily> {
        let family = check(&self.socket)?;
        // Another process may not have set these: the socket must not block, and child processes
        // must not inherit it.
        fcntl_setfd(&self.socket, fcntl_getfd(&self.socket)? | FdFlags::CLOEXEC)?;
        let socket = SockRef::from(&self.socket);
        socket.set_nonblocking(true)?;
        backlog.map_or(Ok(()), |backlog| socket.listen(backlog))?;
        Ok(family)
    }

    /// Another descriptor of the same socket, for another runtime to watch. The path stays with
    /// this one.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(Self { path: None, socket: self.socket.try_clone()? })
    }

    /// Whether both are bound to the same address: then they belong to one group, or are the same
    /// socket.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        getsockname(&self.socket).is_ok_and(|name| getsockname(&other.socket) == Ok(name))
    }
}

/// The address family of a listening stream socket. For any other descriptor the error says what it
/// is and what to do.
pub(crate) fn check(socket: &OwnedFd) -> io::Result<AddressFamily> {
    let refuse = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let kind = match socket_type(socket) {
        Ok(kind) => kind,
        Err(rustix::io::Errno::NOTSOCK) => {
            return refuse("it is not a socket, but a file or a pipe".to_owned());
        }
        Err(error) => return Err(error.into()),
    };
    if kind != SocketType::STREAM {
        let what = match kind {
            SocketType::DGRAM => "a datagram socket",
            SocketType::SEQPACKET => "a socket of packets",
            _ => "a socket of another type",
        };
        return refuse(format!(
            "it is {what}, and a stream socket is needed (ListenStream= in a socket unit)"
        ));
    }
    if !socket_acceptconn(socket)? {
        return refuse(
            "it does not listen; it may be a connection (a socket unit needs Accept=no)".to_owned(),
        );
    }
    Ok(socket_domain(socket)?)
}

#[cfg(test)]
mod tests {
    use crate::endpoint::tcp::listener::open;

    #[test]
    fn sockets_of_one_port_are_beside_one_another_and_beside_no_others() {
        let open = |sockets| open(([127, 0, 0, 1], 0).into(), None, 16, sockets).unwrap();
        let group = open(2);
        let other = open(1);
        assert!(group[0].is_beside(&group[group.len() - 1]));
        assert!(group[0].is_beside(&group[0].share().unwrap()));
        assert!(!group[0].is_beside(&other[0]));
    }
}
