//! Taking over a socket that somebody else opened.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use socket2::Socket;

use super::unix::BoundPath;
use super::{Listener, tcp, unix};

/// A listening socket of another process, and the path it is bound to if that is to become ours.
pub(crate) struct Adopted {
    pub(crate) socket: OwnedFd,
    pub(crate) path: Option<BoundPath>,
}

impl Adopted {
    /// Makes a listener of it, if it is what a server can accept connections on. With `backlog` it listens anew, which
    /// changes how many may wait and nothing else.
    pub(crate) fn listen(self, backlog: Option<i32>) -> io::Result<Box<dyn Listener>> {
        let family = check(&self.socket)?;
        // It may come from a process that cares for neither: it is to block nobody, and no child of ours is to have it.
        fcntl_setfd(&self.socket, fcntl_getfd(&self.socket)? | FdFlags::CLOEXEC)?;
        let socket = Socket::from(self.socket);
        socket.set_nonblocking(true)?;
        if let Some(backlog) = backlog {
            socket.listen(backlog)?;
        }
        match family {
            AddressFamily::UNIX => Ok(Box::new(unix::adopt(socket, self.path)?)),
            _ => Ok(Box::new(tcp::adopt(socket)?)),
        }
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
