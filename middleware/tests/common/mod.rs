//! Connections for tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ropewalk_middleware::{Addr, Connection, Io, Peer, Stream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// An in-process stream, as a connection takes it.
#[derive(Debug)]
pub struct Pipe(DuplexStream);

/// Two ends of a pipe that holds `size` bytes a direction.
pub fn pipe(size: usize) -> (Pipe, DuplexStream) {
    let (ours, theirs) = duplex(size);
    (Pipe(ours), theirs)
}

/// A connection of the given listener, and its peer.
pub fn connection_on(listener: usize, size: usize) -> (Connection, DuplexStream) {
    let (ours, theirs) = pipe(size);
    (Connection::accepted(Stream::boxed(ours), Peer::new(Addr::Memory), listener), theirs)
}

/// A connection and its peer.
pub fn connection() -> (Connection, DuplexStream) {
    connection_on(0, 1024)
}

impl Io for Pipe {}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
