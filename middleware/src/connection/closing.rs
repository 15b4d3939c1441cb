//! Why and when a connection ends: its drain and abort signals, and its close reason.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::info::ConnectionInfo;
use super::peer::Peer;
use super::shared::ConnectionShared;

/// Why a connection ended. It is set once: later reasons are ignored. Each reason that stands for a
/// deadline or a limit names it, with its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// The service ended without an error: the peer closed, or the service did.
    Done = 1,
    /// The peer, or the network, broke the connection: a reset, a broken pipe, a TLS stream without
    /// `close_notify`.
    PeerReset,
    /// This side broke it: `abort()`, or the drain's deadline passed (`Server::drain_within`, 30
    /// s).
    Aborted,
    /// The bytes were not frames of the codec, or an answer could not be encoded.
    CodecError,
    /// The service, or a layer around it, returned an error.
    ServiceError,
    /// The service, or a layer around it, panicked.
    Panic,
    /// Ended because the server was draining.
    Drained,
    /// The write stall: the peer accepted no data for 30 s (`write_stall` on either leaf), or less
    /// than 64 KiB in four times that; or the handshake of `Session::upgrade_tls` took more than 10
    /// s.
    Timeout,
    /// Over a connection or peer limit: refused, and the peer was told, if there is a text.
    Refused,
    /// Over such a limit while 256 refusals were under way: one write was tried, then closed.
    RefusedAtOnce,
    /// The peer sent no complete frame in the time for the first one: 10 s under a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer).
    FirstFrameTimeout,
    /// The peer began a frame and did not complete it in time: 30 s under a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer), else 30 s for each 64 KiB (`frame_deadline`
    /// on either leaf).
    FrameTimeout,
    /// The peer sent nothing between two frames for 60 s, under a
    /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer).
    IdleTimeout,
    /// A session queued more answers than may wait to be written, 1 MiB (`write_limit`), so that
    /// one is missing.
    WriteLimit,
    /// A limit was reached, and the connection made room: its peer had sent no complete frame, for
    /// 5 s or with an address over its share. See [`MakeRoom`](crate::MakeRoom).
    MadeRoomSilent,
    /// A limit was reached, and the connection made room: no byte had moved on it for 60 s.
    MadeRoomIdle,
    /// A limit was reached, and the connection made room for a peer of another address: its own had
    /// more than its share.
    MadeRoomShare,
    /// The server was full, and too many connections waited (64); this connection's address had the
    /// most of them.
    NoRoom,
    /// The codec found no frame in as many bytes as allowed: 16 MiB (`input_limit` on either leaf).
    InputLimit,
    /// The codec yielded a thousand frames without consuming a byte.
    CodecStalled,
    /// The buffers of all connections took more memory than `Server::memory_budget`, and this
    /// connection's were the largest.
    MemoryBudget,
    /// The peer's address may not connect: see [`AccessLayer`](crate::AccessLayer).
    AccessDenied,
    /// Connections came faster than they may: see [`AcceptRateLayer`](crate::AcceptRateLayer).
    AcceptRate,
    /// The connection has reached its maximum age: see [`LifetimeLayer`](crate::LifetimeLayer),
    /// which gives it 30 s to end (`grace`), or `Client::max_age`.
    MaxAge,
    /// The peer did not log in within 120 s (`within` of [`LoginLayer`](crate::LoginLayer)).
    LoginTimeout,
    /// 100 other peers had not logged in (`at_most` of [`LoginLayer`](crate::LoginLayer)).
    LoginLimit,
    /// The peer accepted pushed frames too slowly, and its outbox disconnects then
    /// (`SlowConsumer::Disconnect`).
    SlowConsumer,
    /// Of a client: the server sent a frame that answers no request, so later answers can't be
    /// matched.
    Desynchronized,
    /// Of a client: the server sent no answers on it for 60 s (`Client::stalled_after`), or an
    /// answer over the limit.
    Replaced,
}

impl CloseReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 29] = [
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
            Self::SlowConsumer => "slow_consumer",
            Self::Desynchronized => "desynchronized",
            Self::Replaced => "replaced",
        }
    }

    /// Its place in [`CloseReason::ALL`].
    pub fn index(self) -> usize {
        usize::from(self as u8) - 1
    }

    fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n).checked_sub(1)?).copied()
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const DRAINING: u8 = 1;
const ABORTED: u8 = 2;
const LOST: u8 = 4;
const SUCCEEDED: u8 = 8;
const PARTIAL: u8 = 16;
const PAUSED: u8 = 32;

/// The part of a connection's shared state this module owns.
#[derive(Debug, Default)]
pub(super) struct ClosingState {
    signals: AtomicU8,
    reason: AtomicU8,
    drain_waker: AtomicWaker,
    /// The waker of the task that moves the bytes. It has a place of its own, so that other waits
    /// for the drain don't replace it.
    mover: AtomicWaker,
    abort_waker: AtomicWaker,
}

impl ClosingState {
    /// Notes that reading or writing failed because the peer is gone.
    pub(super) fn lost(&self) {
        self.signals.fetch_or(LOST, Ordering::Relaxed);
    }

    /// Notes whether the bytes written so far end within a frame.
    pub(super) fn set_partial(&self, partial: bool) {
        if partial {
            self.signals.fetch_or(PARTIAL, Ordering::Relaxed);
        } else {
            self.signals.fetch_and(!PARTIAL, Ordering::Relaxed);
        }
    }

    /// Notes whether the connection waits for memory to be freed before it reads.
    pub(super) fn set_paused(&self, paused: bool) {
        if paused {
            self.signals.fetch_or(PAUSED, Ordering::SeqCst);
        } else {
            self.signals.fetch_and(!PAUSED, Ordering::SeqCst);
        }
    }

    /// Has the connection check again whether there is memory, if it waits for that.
    pub(super) fn resume(&self) {
        if self.signals.load(Ordering::SeqCst) & PAUSED != 0 {
            self.set_paused(false);
            self.mover.wake();
        }
    }

    /// Wakes the task that moves the bytes.
    pub(super) fn wake(&self) {
        self.mover.wake();
    }

    /// Whether a drop of the connection has to be a reset: it was told to abort, or a part of a
    /// frame was written, which must not look whole.
    pub(super) fn ends_in_reset(&self) -> bool {
        self.signals.load(Ordering::Acquire) & (ABORTED | PARTIAL) != 0
    }
}

/// A handle on a connection's end; cheap to clone, and it outlives the connection.
///
/// Through it the task that runs a connection is told to drain (finish what was received, then
/// close) or to abort. A layer that watches the connection, such as a log, reads why the connection
/// ended.
#[derive(Clone, Debug)]
pub struct Closing(pub(super) Arc<ConnectionShared>);

impl Closing {
    fn state(&self) -> &ClosingState {
        &self.0.closing
    }

    /// Asks the connection to finish what it has received and close. The request stays set.
    pub fn drain(&self) {
        self.state().signals.fetch_or(DRAINING, Ordering::AcqRel);
        self.state().drain_waker.wake();
        self.state().mover.wake();
    }

    /// Asks the connection to drain because another process has taken the server's place: a peer
    /// that has just connected can't know, so the connection waits for its first frame.
    pub fn drain_for_successor(&self) {
        self.state().signals.fetch_or(SUCCEEDED, Ordering::Relaxed);
        self.drain();
    }

    /// Whether the connection was asked to drain because another process has taken the server's
    /// place.
    pub fn has_successor(&self) -> bool {
        self.state().signals.load(Ordering::Acquire) & SUCCEEDED != 0
    }

    /// Whether the connection was asked to drain.
    pub fn is_draining(&self) -> bool {
        self.state().signals.load(Ordering::Acquire) & DRAINING != 0
    }

    /// Ready once the connection was asked to drain. Each connection has one waiter: the last task
    /// that polled is woken.
    pub fn poll_draining(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_draining() {
            return Poll::Ready(());
        }
        self.state().drain_waker.register(cx.waker());
        // The signal may have come between the check and the registration.
        if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Registers the task to be woken when the connection is told to drain or to abort, or may read
    /// again. Check for these afterwards, because they may have happened before. Only the task that
    /// moves the connection's bytes may call it: there is one waiter, the last task that
    /// registered.
    pub fn watch(&self, cx: &mut Context<'_>) {
        self.state().mover.register(cx.waker());
    }

    /// Breaks the connection: its task is woken and dropped at its next step.
    pub fn abort(&self) {
        self.state().signals.fetch_or(ABORTED, Ordering::AcqRel);
        self.state().abort_waker.wake();
        self.state().mover.wake();
    }

    /// Breaks the connection for this reason, unless it has one already.
    pub fn abort_for(&self, reason: CloseReason) {
        self.set_reason(reason);
        self.abort();
    }

    /// Whether the connection was told to abort.
    pub fn is_aborted(&self) -> bool {
        self.state().signals.load(Ordering::Acquire) & ABORTED != 0
    }

    /// Ready once the connection was told to abort. Only the task that owns the connection may call
    /// it: there is one waiter, as above.
    pub fn poll_aborted(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_aborted() {
            return Poll::Ready(());
        }
        self.state().abort_waker.register(cx.waker());
        if self.is_aborted() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A handle on the connection.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo(Arc::clone(&self.0))
    }

    /// The connection's number.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn peer(&self) -> &Peer {
        self.0.peer()
    }

    /// When the connection was opened.
    pub(crate) fn opened(&self) -> Instant {
        self.0.opened
    }

    /// When bytes last moved, as far as it was noted.
    pub(crate) fn idle_since(&self) -> Instant {
        self.0.idle_since()
    }

    /// Whether the peer's first complete frame has not arrived.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.is_silent()
    }

    /// Whether nothing is known to be pending or unwritten.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.activity.is_quiet()
    }

    /// Whether a read or a write failed because the peer was gone.
    pub fn is_lost(&self) -> bool {
        self.state().signals.load(Ordering::Relaxed) & LOST != 0
    }

    /// Why the connection ended, once that is known.
    pub fn reason(&self) -> Option<CloseReason> {
        CloseReason::from_u8(self.state().reason.load(Ordering::Acquire))
    }

    /// Sets the reason why the connection ends. The first reason stands, and is returned.
    pub fn set_reason(&self, reason: CloseReason) -> CloseReason {
        let state = self.state();
        match state.reason.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => reason,
            Err(earlier) => CloseReason::from_u8(earlier).unwrap_or(reason),
        }
    }

    /// Derives the reason from how the service ended, unless one was set before. `failed` says
    /// whether the service returned an error.
    pub fn settle(&self, failed: bool) -> CloseReason {
        let reason = if self.is_aborted() {
            CloseReason::Aborted
        } else if failed && self.is_lost() {
            CloseReason::PeerReset
        } else if failed {
            CloseReason::ServiceError
        } else if self.is_draining() {
            CloseReason::Drained
        } else {
            CloseReason::Done
        };
        self.set_reason(reason)
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
