//! A session on a connection of one's own: the client's side of a protocol.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::Connection;

use super::{Homing, Session};
use crate::wire::{Limits, Wire};

impl<C> Session<C> {
    /// A session on a connection that no leaf has: of [`connect`](crate::connect), for the client's
    /// side of a protocol that is a script.
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
    /// Dropped, it is closed as a leaf would close it, by a task of its own: what was queued is
    /// written, as far as the peer takes it, and the connection is closed in its two halves.
    /// Outside of a runtime, or if the runtime ends first, what was queued is lost:
    /// [`Session::close`] is the sure way.
    ///
    /// No server drains it, so [`Session::is_draining`] is false.
    pub fn over(connection: Connection, codec: C) -> Self {
        Self::new(codec, Homing::without_leaf(Wire::new(connection, Arc::default())))
    }

    /// Its codec and its connection. `None` of one that a leaf has, which goes on to close it.
    pub(crate) fn into_parts(self) -> Option<(C, Box<Wire>)> {
        Some((self.codec, self.wire.take_own()?))
    }

    /// The most [`Session::raw`] takes at once from here on; 1 MiB by default.
    #[must_use]
    pub fn raw_limit(mut self, bytes: u64) -> Self {
        self.wire.limits_mut().raw_limit = bytes;
        self
    }

    /// [`Session::feed`] fails while this many bytes wait to be written, from here on; 1 MiB by
    /// default. Below 64 KiB it is also from where on no more frames are read before the peer has
    /// taken some.
    #[must_use]
    pub fn write_limit(mut self, bytes: usize) -> Self {
        let limits = self.wire.limits_mut();
        limits.write_limit = bytes;
        limits.high_water = bytes.min(Limits::default().high_water);
        self
    }

    /// How long the peer may take nothing of what waits to be written, from here on; 30 s by
    /// default.
    #[must_use]
    pub fn write_stall(mut self, patience: Duration) -> Self {
        self.wire.limits_mut().write_stall = patience;
        self
    }
}
