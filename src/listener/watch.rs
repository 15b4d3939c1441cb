//! From an open socket to a listener, which the runtime watches.

use std::io;

use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use socket2::Socket;

use super::opened::OpenSocket;
use super::{Listener, tcp, unix};

/// A listener watched by the current runtime. `backlog` is the most connections that can wait in
/// the socket.
pub(crate) fn watch(opened: OpenSocket, backlog: usize) -> io::Result<Box<dyn Listener>> {
    let family = socket_domain(&opened.socket)?;
    let socket = Socket::from(opened.socket);
    match family {
        AddressFamily::UNIX => Ok(Box::new(unix::watch(socket, opened.path, backlog)?)),
        _ => Ok(Box::new(tcp::watch(socket, backlog)?)),
    }
}
