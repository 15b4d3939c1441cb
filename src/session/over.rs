//! Sessions without a leaf: the client's side of a protocol.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::Connection;

use super::{ReturningWire, Session};
use crate::wire::{Limits, Wire};

impl<C> Session<C> {
    /// A session on a connection that belongs to no leaf, for example one made by
    /// [`connect`](crate::connect): for the client's side of a protocol.
    ///
    /// ```no_run
    /// use ropewalk::{Error, Lines, Result, Session, connect};
    ///
    /// async fn quit(server: &str) -> Result {
    ///     let mut s = Session::over(connect(server).await?, Lines::crlf());
    ///     s.next().await?.ok_or_else(|| Error::other("no greeting"))?;
    ///     s.feed("QUIT")?;
    ///     s.next().await?;
    ///     s.close().await
    /// }
    /// ```
    ///
    /// When it is dropped, a task of its own closes it as a leaf would: it writes the queued
    /// frames, half-closes, and waits for the peer to close. Outside of a runtime, or if the
    /// runtime ends first, queued frames are lost; [`Session::close`] waits until they are sent.
    ///
    /// No server drains it, so [`Session::is_draining`] is false.
    pub fn over(connection: Connection, codec: C) -> Self {
        Self::new(codec, ReturningWire::without_leaf(Wire::new(connection, Arc::default())))
    }

    /// Its codec and connection. `None` if it belongs to a leaf, which then closes the connection.
    pub(crate) fn into_parts(self) -> Option<(C, Box<Wire>)> {
        Some((self.codec, self.wire.take_own()?))
    }

    /// Sets the most bytes that [`Session::raw`] reads at once, from here on; 1 MiB by default.
    #[must_use]
    pub fn raw_limit(mut self, bytes: u64) -> Self {
        self.wire.limits_mut().raw_limit = bytes;
        self
    }

    /// Sets the write limit from here on; 1 MiB by default: [`Session::feed`] fails while this many
    /// bytes wait to be written. If it is below 64 KiB, no frames are read either while this many
    /// bytes wait.
    #[must_use]
    pub fn write_limit(mut self, bytes: usize) -> Self {
        let limits = self.wire.limits_mut();
        limits.write_limit = bytes;
        limits.high_water = bytes.min(Limits::default().high_water);
        self
    }

    /// Sets the write stall from here on, the time for which the peer may accept no data while
    /// bytes wait to be written; 30 s by default.
    #[must_use]
    pub fn write_stall(mut self, patience: Duration) -> Self {
        self.wire.limits_mut().write_stall = patience;
        self
    }
}
