//! When a connection ends: its drain and abort signals, and where its close reason is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::info::ConnectionInfo;
use super::peer::Peer;
use super::reason::CloseReason;
use super::shared::ConnectionShared;

const DRAINING: u8 = 1;
const ABORTED: u8 = 2;
const LOST: u8 = 4;
const SUCCEEDED: u8 = 8;
const PARTIAL: u8 = 16;
const PAUSED: u8 = 32;
const REFUSED: u8 = 64;

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

    pub(super) fn is_aborted(&self) -> bool {
        self.signals.load(Ordering::Acquire) & ABORTED != 0
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

    /// Asks the connection to close after the frames that its leaf has taken so far: they are
    /// answered, and those that have arrived behind them are discarded. For a peer that must not be
    /// served any longer; [`drain`](Self::drain) also answers what has arrived.
    pub fn finish(&self) {
        self.limit_frames(0);
        self.drain();
    }

    /// Has the connection take at most this many frames in all, those that it has taken already
    /// among them. After them it closes as in a drain, with the protocol's goodbye, and with the
    /// reason [`MaxCalls`](CloseReason::MaxCalls). Limits can only be lowered. A plain service of
    /// connections takes no frames, and takes no notice.
    pub fn limit_frames(&self, max: u64) {
        self.0.max_frames.fetch_min(max, Ordering::Relaxed);
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
        self.state().is_aborted()
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

    /// Notes that a layer refuses the connection instead of serving it, so that a server counts it
    /// among those. [`Refuse`](crate::Refuse) and the layers of this crate do so.
    pub fn set_refused(&self) {
        self.state().signals.fetch_or(REFUSED, Ordering::Relaxed);
    }

    /// Whether a layer has refused the connection.
    pub fn is_refused(&self) -> bool {
        self.state().signals.load(Ordering::Relaxed) & REFUSED != 0
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
