//! Why a connection ended. Each reason is set in a few places only; ARCHITECTURE.md has a table of
//! them, and `Closing::settle` those that follow from how the service ended.

use std::fmt;
use std::ops::{Index, IndexMut};

/// Why a connection ended. It is set once: later reasons are ignored. Each reason that stands for a
/// deadline or a limit names it; the default is in the documentation of that setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// The service ended without an error: the peer closed, or the service did.
    Done = 1,
    /// The peer, or the network, broke the connection: a reset, a broken pipe, a TLS stream without
    /// `close_notify`.
    PeerReset,
    /// This side broke it: `abort()`, or the drain's deadline passed (`Server::drain_within`).
    Aborted,
    /// The bytes were not frames of the codec, or an answer could not be encoded.
    CodecError,
    /// The service, or a layer around it, returned an error.
    ServiceError,
    /// The service, or a layer around it, panicked.
    Panic,
    /// Ended because the server was draining.
    Drained,
    /// The write stall: the peer accepted no data for too long, or too little (`write_stall` on
    /// either leaf); or the handshake of `Session::upgrade_tls` took too long.
    Timeout,
    /// Over a connection or peer limit: refused, and the peer was told, if there is a text.
    Refused,
    /// Over such a limit while too many refusals were under way
    /// ([`MAX_REFUSALS`](crate::limit::MAX_REFUSALS)): one write was tried, then closed.
    RefusedAtOnce,
    /// The peer sent no complete frame in the time for the first one: `first_frame` of a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer).
    FirstFrameTimeout,
    /// The peer began a frame and did not complete it in time: `frame` of a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer), or without that layer `frame_deadline` on
    /// either leaf.
    FrameTimeout,
    /// The peer sent nothing between two frames for too long: `idle` of a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer).
    IdleTimeout,
    /// A session queued more answers than may wait to be written (`write_limit`), so that one is
    /// missing.
    WriteLimit,
    /// A limit was reached, and the connection made room: its peer had sent no complete frame, for
    /// too long (`silent` of [`MakeRoom`](crate::MakeRoom)) or with an address over its share.
    MadeRoomSilent,
    /// A limit was reached, and the connection made room: no byte had moved on it for too long
    /// (`idle` of [`MakeRoom`](crate::MakeRoom)).
    MadeRoomIdle,
    /// A limit was reached, and the connection made room for a peer of another address: its own had
    /// more than its share.
    MadeRoomShare,
    /// The server was full, and too many connections waited; this connection's address had the most
    /// of them.
    NoRoom,
    /// The codec found no frame in as many bytes as allowed (`input_limit` on either leaf).
    InputLimit,
    /// The codec yielded frame after frame without consuming a byte.
    CodecStalled,
    /// The buffers of all connections took more memory than `Server::memory_budget`, and this
    /// connection's were the largest.
    MemoryBudget,
    /// The peer's address may not connect: see [`AccessLayer`](crate::AccessLayer).
    AccessDenied,
    /// Connections came faster than they may: see [`AcceptRateLayer`](crate::AcceptRateLayer).
    AcceptRate,
    /// The connection has reached its maximum age: see [`LifetimeLayer`](crate::LifetimeLayer),
    /// which gives it some time to end (`grace`), or `Client::max_age`.
    MaxAge,
    /// The peer did not log in in time (`within` of [`LoginLayer`](crate::LoginLayer)).
    LoginTimeout,
    /// Too many other peers had not logged in (`at_most` of [`LoginLayer`](crate::LoginLayer)).
    LoginLimit,
    /// The peer has sent as many frames as it may on one connection: see
    /// [`LifetimeLayer::max_calls`](crate::LifetimeLayer::max_calls).
    MaxCalls,
    /// Too many connections with the same key were open: see
    /// [`KeyLimitLayer`](crate::KeyLimitLayer).
    KeyLimit,
    /// The peer is banned for its offences: see [`BanLayer`](crate::BanLayer).
    Banned,
    /// Too little memory was left, or the runtime was too late: see
    /// [`OverloadLayer`](crate::OverloadLayer).
    Overload,
    /// The peer accepted pushed frames too slowly, and its outbox disconnects then
    /// (`SlowConsumer::Disconnect`).
    SlowConsumer,
    /// Of a client: the server sent a frame that answers no request, so later answers can't be
    /// matched.
    Desynchronized,
    /// Of a client: the server sent no answers on it for too long (`Client::stalled_after`), or an
    /// answer over the limit (`Client::max_answer`).
    Replaced,
}

impl CloseReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 33] = [
        Self::Done,
        Self::PeerReset,
        Self::Aborted,
        Self::CodecError,
        Self::ServiceError,
        Self::Panic,
        Self::Drained,
        Self::Timeout,
        Self::Refused,
        Self::RefusedAtOnce,
        Self::FirstFrameTimeout,
        Self::FrameTimeout,
        Self::IdleTimeout,
        Self::WriteLimit,
        Self::MadeRoomSilent,
        Self::MadeRoomIdle,
        Self::MadeRoomShare,
        Self::NoRoom,
        Self::InputLimit,
        Self::CodecStalled,
        Self::MemoryBudget,
        Self::AccessDenied,
        Self::AcceptRate,
        Self::MaxAge,
        Self::LoginTimeout,
        Self::LoginLimit,
        Self::MaxCalls,
        Self::KeyLimit,
        Self::Banned,
        Self::Overload,
        Self::SlowConsumer,
        Self::Desynchronized,
        Self::Replaced,
    ];

    /// The reason as one lower-case word, as logs and counters name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::PeerReset => "peer_reset",
            Self::Aborted => "aborted",
            Self::CodecError => "codec_error",
            Self::ServiceError => "service_error",
            Self::Panic => "panic",
            Self::Drained => "drained",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::RefusedAtOnce => "refused_at_once",
            Self::FirstFrameTimeout => "first_frame_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::WriteLimit => "write_limit",
            Self::MadeRoomSilent => "made_room_silent",
            Self::MadeRoomIdle => "made_room_idle",
            Self::MadeRoomShare => "made_room_share",
            Self::NoRoom => "no_room",
            Self::InputLimit => "input_limit",
            Self::CodecStalled => "codec_stalled",
            Self::MemoryBudget => "memory_budget",
            Self::AccessDenied => "access_denied",
            Self::AcceptRate => "accept_rate",
            Self::MaxAge => "max_age",
            Self::LoginTimeout => "login_timeout",
            Self::LoginLimit => "login_limit",
            Self::MaxCalls => "max_calls",
            Self::KeyLimit => "key_limit",
            Self::Banned => "banned",
            Self::Overload => "overload",
            Self::SlowConsumer => "slow_consumer",
            Self::Desynchronized => "desynchronized",
            Self::Replaced => "replaced",
        }
    }

    /// Whether a layer refuses connections for this reason, instead of serving them. (`Banned` is
    /// also the reason of an open connection whose offence led to a ban.)
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::RefusedAtOnce
                | Self::AccessDenied
                | Self::AcceptRate
                | Self::LoginLimit
                | Self::KeyLimit
                | Self::Banned
                | Self::Overload
        )
    }

    /// Its place in [`CloseReason::ALL`].
    pub fn index(self) -> usize {
        usize::from(self as u8) - 1
    }

    pub(super) fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n).checked_sub(1)?).copied()
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A count for each reason.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerReason([u64; CloseReason::ALL.len()]);

impl PerReason {
    /// The sum of all counts.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Default for PerReason {
    // The standard library has it for up to 32 elements.
    fn default() -> Self {
        Self([0; CloseReason::ALL.len()])
    }
}

impl Index<CloseReason> for PerReason {
    type Output = u64;

    fn index(&self, reason: CloseReason) -> &u64 {
        &self.0[reason.index()]
    }
}

impl IndexMut<CloseReason> for PerReason {
    fn index_mut(&mut self, reason: CloseReason) -> &mut u64 {
        &mut self.0[reason.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::CloseReason;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (i, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert_eq!(CloseReason::from_u8(reason as u8), Some(reason));
        }
        assert_eq!(CloseReason::from_u8(0), None);
    }
}
