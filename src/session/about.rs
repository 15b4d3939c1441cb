//! The data of a session's connection.

use ropewalk_middleware::{Addr, Closing, ConnectionInfo, Peer, ReadDeadlines, Stats, TlsInfo};

use super::Session;

impl<C> Session<C> {
    /// A handle on the connection, with which other tasks can query, drain or abort it, and with
    /// the values that layers have stored there.
    pub fn info(&self) -> ConnectionInfo {
        self.wire.connection().info()
    }

    /// The peer: the other end of the connection.
    pub fn peer(&self) -> &Peer {
        self.wire.connection().peer()
    }

    /// The result of the TLS handshake; `None` while the connection is not encrypted.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.wire.connection().tls()
    }

    /// The server's own address on this connection.
    pub fn local(&self) -> Addr {
        self.wire.connection().local()
    }

    /// The connection's number, which is unique in this process.
    pub fn id(&self) -> u64 {
        self.wire.connection().id()
    }

    /// How many bytes of answers are not written yet. While it is 64 KiB or more (or the write
    /// limit, if that is less), no bytes are read or decoded.
    pub fn queued(&self) -> usize {
        self.wire.unwritten()
    }

    /// The index of the server's endpoint that accepted it: 0 is the first.
    pub fn listener(&self) -> usize {
        self.wire.connection().listener()
    }

    /// Whether the connection drains.
    pub fn is_draining(&self) -> bool {
        self.wire.closing().is_draining()
    }

    /// The connection's drain and abort signals, and the reason for its end.
    pub fn closing(&self) -> Closing {
        self.wire.closing().clone()
    }

    /// The connection's counters.
    pub fn stats(&self) -> Stats {
        self.wire.connection().stats()
    }

    /// How long the session waits for the peer: the deadlines that a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) has set, or [`ReadDeadlines::OFF`] without
    /// one. In the latter case only the leaf's own deadline applies, to a frame that has begun
    /// ([`frame_deadline`](crate::leaf::SessionLeaf::frame_deadline)).
    pub fn read_deadlines(&self) -> ReadDeadlines {
        self.wire.connection().read_deadlines()
    }

    /// Replaces the read deadlines from here on. For example, a subscriber may be idle, while a
    /// peer that has not logged in may not.
    ///
    /// A wait that is under way still counts from its own beginning.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session};
    /// # async fn doc(mut s: Session<Lines>) -> Result {
    /// while let Some(line) = s.next().await? {
    ///     if line == "subscribe" {
    ///         s.set_read_deadlines(s.read_deadlines().idle(None));
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_read_deadlines(&mut self, deadlines: ReadDeadlines) {
        self.wire.set_read_deadlines(deadlines);
    }
}
