use std::time::Duration;

/// Which connection is aborted when a cap is full and another one waits, so that silent peers cannot keep others out.
///
/// While there is room, no peer is disconnected by it. When all places are taken, one connection is aborted for one
/// that waits, the first that one of these rules finds:
///
/// 1. one whose peer has not sent a first complete frame: 5 s after it was opened, or at once if its address has more
///    than its share. Reason [`MadeRoomSilent`](crate::CloseReason::MadeRoomSilent).
/// 2. the one that has been idle for longest, if no byte has moved on it in either direction for 60 s, no call is pending
///    and nothing is unwritten. Reason [`MadeRoomIdle`](crate::CloseReason::MadeRoomIdle).
/// 3. only for a peer whose address has less than its share: the longest idle one of the address that is furthest above
///    its share. Reason [`MadeRoomShare`](crate::CloseReason::MadeRoomShare).
///
/// Otherwise those that wait go on waiting (or are refused, by a limit that refuses).
///
/// An address is an IPv4 address, or the first 64 bits of an IPv6 address ([`Peer::host`](crate::Peer::host)); behind a
/// proxy that told of it, the client's. Its share is the cap divided by the number of addresses, the one that waits
/// included, and at least 1. Peers without an address, on Unix sockets and in the process, fall under the first
/// two rules only, without shares.
///
/// Whether a frame is complete is known to the leaves, `framed` and `session`. A plain service of connections is under
/// the last two rules only, and so is a session once raw bytes were read or written. Of a plain service it is not known
/// whether anything is pending. Turn the first rule off for a protocol whose clients never send anything, and the
/// second one where clients that only listen are to stay even though others wait.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::MakeRoom;
///
/// // Subscribers that only listen stay; peers that have said nothing for 20 s make room.
/// let rules = MakeRoom::new().silent(Duration::from_secs(20)).idle(None);
/// assert_ne!(rules, MakeRoom::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "rules do nothing until they are given to a server or a limit"]
pub struct MakeRoom {
    pub(super) silent: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) share: bool,
}

impl MakeRoom {
    /// All three rules, with their defaults.
    pub fn new() -> Self {
        Self { silent: Some(Duration::from_secs(5)), idle: Some(Duration::from_secs(60)), share: true }
    }

    /// How long a peer may take for its first complete frame when the cap is full; 5 s by default. `None` turns the
    /// first rule off.
    pub fn silent(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.silent = after.into();
        self
    }

    /// How long no byte has moved on a connection that may be aborted for being idle; 60 s by default. `None` turns the
    /// second rule off.
    pub fn idle(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.idle = after.into();
        self
    }

    /// Whether each address has a share; it has by default. Without shares there is no third rule, and the first one
    /// waits its time for every peer.
    pub fn share(mut self, on: bool) -> Self {
        self.share = on;
        self
    }
}

impl Default for MakeRoom {
    fn default() -> Self {
        Self::new()
    }
}
