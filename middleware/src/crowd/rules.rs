use std::time::Duration;

/// Which connection is aborted when a limit is reached and another one waits, so that silent peers
/// cannot keep others out.
///
/// While slots are free, it disconnects no peer. When all slots are taken, one connection is
/// aborted for each that waits, the first that one of these rules finds:
///
/// 1. one whose peer has not sent a first complete frame: 5 s after it was opened, or at once if
///    its address has more than its share. Reason
///    [`MadeRoomSilent`](crate::CloseReason::MadeRoomSilent).
/// 2. the one that has been idle for longest, if no byte has moved on it in either direction for 60
///    s, no call is pending and nothing is unwritten. Reason
///    [`MadeRoomIdle`](crate::CloseReason::MadeRoomIdle).
/// 3. only for a peer whose address has less than its share: the longest idle one of the address
///    that is furthest above its share. Reason
///    [`MadeRoomShare`](crate::CloseReason::MadeRoomShare).
///
/// Otherwise the connections that wait continue to wait (or are refused, by a limit that refuses).
///
/// An address is an IPv4 address, or the first 64 bits of an IPv6 address
/// ([`Peer::host`](crate::Peer::host)); behind a proxy that sent it, the client's. Its share is the
/// limit divided by the number of addresses, including the one that waits, and at least 1. Peers
/// without an address, on Unix sockets and in the process, are under the first two rules only,
/// without shares.
///
/// Only the leaves, `framed` and `session`, know whether a frame is complete. A plain service of
/// connections is under the last two rules only, and so is a session once raw bytes were read or
/// written. Whether a call of a plain service is pending is unknown. Turn the first rule off for a
/// protocol whose clients never send anything, and the second one if clients that only listen
/// should stay even while others wait.
///
/// ```
/// use std::time::Duration;
/// use ropewalk_middleware::MakeRoom;
///
/// // Subscribers that only listen stay; peers that have sent no frame for 20 s make room.
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
        Self {
            silent: Some(Duration::from_secs(5)),
            idle: Some(Duration::from_secs(60)),
            share: true,
        }
    }

    /// How long a peer may take for its first complete frame when the limit is reached; 5 s by
    /// default. `None` turns the first rule off.
    pub fn silent(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.silent = after.into();
        self
    }

    /// How long a connection must have been idle before it may be aborted for that; 60 s by
    /// default. `None` turns the second rule off.
    pub fn idle(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.idle = after.into();
        self
    }

    /// Whether each address has a share; on by default. Without shares there is no third rule, and
    /// the first one gives every peer its time.
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
