//! `Scheme`: the trait that the address of each scheme implements.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use ropewalk_middleware::Addr;

use super::options::SocketOptions;
use crate::listener::opened::OpenSocket;

/// Sockets that are being opened.
pub(super) type Opening<'a> =
    Pin<Box<dyn Future<Output = io::Result<Vec<OpenSocket>>> + Send + 'a>>;

/// The address of an endpoint, of one scheme. `Display` writes it as the endpoint's string without
/// options; an encrypted endpoint's string is made from that.
pub(super) trait Scheme: fmt::Display + Send + Sync {
    /// The names of the options that this address accepts. With `backlog`, this process calls
    /// `listen` on its sockets.
    fn options(&self) -> &'static [&'static str];

    /// Checks the address before it is bound: one built in code may be invalid.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// The socket's address, if the endpoint's string has it.
    fn addr(&self) -> Option<Addr> {
        None
    }

    /// How a proxy that connects to it is identified; `None` if that depends on the socket that it
    /// is bound to.
    fn peers(&self) -> Option<Identified>;

    /// Binds and listens: as many sockets as wanted if the kernel distributes connections among
    /// several, otherwise one.
    fn open<'a>(&'a self, options: &'a SocketOptions, sockets: usize) -> Opening<'a>;

    /// What to do about an error of the system, by its number; it follows the error's text.
    fn advice(&self, _errno: i32) -> &'static str {
        ""
    }
}

/// How a proxy is identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identified {
    /// By its address in the network.
    ByAddress,
    /// By its permission to connect: to a path, or to a listener made in code.
    ByPermission,
    /// Not at all: any process that can reach it may connect.
    Never,
}
