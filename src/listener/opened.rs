//! A listening socket that no runtime watches yet: of this process, or taken over from another.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname};
use socket2::{SockRef, Socket};

use super::unix::BoundPath;

/// A listening socket that no runtime watches yet, and the path it is bound to if that is this process's to remove.
pub(crate) struct Opened {
    // Dropped first: while the socket is open no other file can be given its inode number, so the path can be told.
    pub(crate) path: Option<BoundPath>,
    pub(crate) socket: OwnedFd,
}

impl Opened {
    pub(super) fn new(socket: Socket, path: Option<BoundPath>) -> Self {
        Self { path, socket: socket.into() }
    }

    /// Makes a socket of another process fit for this one, if it is what a server can accept connections on. With
    /// `backlog` it listens anew, which changes how many may wait and nothing else.
    pub(crate) fn prepare(&self, backlog: Option<i32>) -> io::Result<()> {
        check(&self.socket)?;
        // It may come from a process that cares for neither: it is to block nobody, and no child of ours is to have it.
        fcntl_setfd(&self.socket, fcntl_getfd(&self.socket)? | FdFlags::CLOEXEC)?;
        let socket = SockRef::from(&self.socket);
        socket.set_nonblocking(true)?;
        backlog.map_or(Ok(()), |backlog| socket.listen(backlog))
    }

    /// Another descriptor of the same socket, for another runtime to watch. The path stays with this one.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(Self { path: None, socket: self.socket.try_clone()? })
    }

    /// Whether both are bound to the same address: then they are of one group, or the same socket.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        getsockname(&self.socket).is_ok_and(|name| getsockname(&other.socket) == Ok(name))
    }
}

/// The family of a stream socket that listens; of anything else, what it is instead and what to do about it.
pub(crate) fn check(socket: &OwnedFd) -> io::Result<AddressFamily> {
    let refuse = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let kind = match socket_type(socket) {
        Ok(kind) => kind,
        Err(rustix::io::Errno::NOTSOCK) => return refuse("it is no socket, but a file or a pipe".to_owned()),
        Err(error) => return Err(error.into()),
    };
    if kind != SocketType::STREAM {
        let what = match kind {
            SocketType::DGRAM => "a datagram socket",
            SocketType::SEQPACKET => "a socket of packets",
            _ => "a socket of another type",
        };
        return refuse(format!("it is {what}, and a stream socket is needed (ListenStream= in a socket unit)"));
    }
    let family = socket_domain(socket)?;
    if !matches!(family, AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX) {
        return refuse(format!("its address family ({}) is none of IPv4, IPv6 and Unix", family.as_raw()));
    }
    if !socket_acceptconn(socket)? {
        return refuse("it does not listen; it may be a connection (a socket unit needs Accept=no)".to_owned());
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use crate::listener::tcp;

    #[test]
    fn sockets_of_one_port_are_beside_one_another_and_beside_no_others() {
        let open = |sockets| tcp::open(([127, 0, 0, 1], 0).into(), None, 16, sockets).unwrap();
        let (group, other) = (open(2), open(1));
        assert!(group[0].is_beside(&group[group.len() - 1]));
        assert!(group[0].is_beside(&group[0].share().unwrap()));
        assert!(!group[0].is_beside(&other[0]));
    }
}
