//! What a session knows of its connection.

use ropewalk_middleware::{Addr, Closing, ConnectionInfo, Peer, ReadDeadlines, Stats, TlsInfo};

use super::Session;

impl<C> Session<C> {
    /// A handle on the connection, to be listed, asked, drained or aborted from elsewhere, and what layers have left there.
    pub fn info(&self) -> ConnectionInfo {
        self.wire.connection().info()
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        self.wire.connection().peer()
    }

    /// What the TLS handshake settled; `None` as long as the bytes are plain.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.wire.connection().tls()
    }

    /// The address of this end.
    pub fn local(&self) -> Addr {
        self.wire.connection().local()
    }

    /// The connection's number; no other of this process has or had it.
    pub fn id(&self) -> u64 {
        self.wire.connection().id()
    }

    /// How many bytes of replies wait to be written. While it is 64 KiB or more, nothing is read or decoded.
    pub fn queued(&self) -> usize {
        self.wire.unwritten()
    }

    /// Which of the server's endpoints it came in on: 0 is the first.
    pub fn listener(&self) -> usize {
        self.wire.connection().listener()
    }

    /// Whether the server asked this connection to finish.
    pub fn is_draining(&self) -> bool {
        self.wire.closing().is_draining()
    }

    /// The connection's drain and abort signals, and its reason.
    pub fn closing(&self) -> Closing {
        self.wire.closing().clone()
    }

    /// The connection's counters.
    pub fn stats(&self) -> Stats {
        self.wire.connection().stats()
    }

    /// How long the peer is waited for: what a [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) has set, or else
    /// [`ReadDeadlines::OFF`]; then there is only the leaf's own, for a frame that has begun
    /// ([`frame_deadline`](crate::SessionLeaf::frame_deadline)).
    pub fn read_deadlines(&self) -> ReadDeadlines {
        self.wire.connection().read_deadlines()
    }

    /// Other deadlines for the peer from here on: a subscriber may be idle, somebody who has yet to log in may not.
    ///
    /// The wait that is under way, if there is one, keeps its beginning.
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
