//! When bytes last moved on a connection, and whether anything is under way. A full server decides
//! by this which connections make room.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A leaf reads and writes, and reports when it waits. Of a plain service only the reads and writes
/// are known.
const LEAF: u8 = 1;
/// The peer's first complete frame is awaited.
const FIRST_FRAME: u8 = 2;
/// The leaf waits for the peer: no call is pending, and nothing is unwritten.
const WAITING: u8 = 4;
/// A plain service has something to write that the transport did not accept.
const BLOCKED: u8 = 8;
/// The leaf has unwritten bytes.
const WRITING: u8 = 16;
/// All is written, and the peer is given time to read it.
const LINGERING: u8 = 32;

/// The state of a connection, as its leaf noted it at its last wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// It waits for bytes of its peer: no call is pending, and everything is written.
    Reading,
    /// Its service or session is at work, or has not waited yet. A plain service of connections is
    /// always in this state or in the next one.
    Calling,
    /// Its peer has not accepted all bytes that wait to be written.
    Writing,
    /// It has ended: all is written, and the peer is given time to read it.
    Lingering,
}

/// The part of a connection's shared state this module owns. It has one writer, the owner of the
/// connection, so plain loads and stores are enough.
#[derive(Debug, Default)]
pub(super) struct Activity {
    flags: AtomicU8,
    /// When bytes last moved, in nanoseconds since the connection was opened.
    moved: AtomicU64,
}

impl Activity {
    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set(&self, flag: u8, on: bool) {
        let flags = self.flags.load(Ordering::Relaxed);
        self.flags.store(if on { flags | flag } else { flags & !flag }, Ordering::Relaxed);
    }

    pub(super) fn begin_frames(&self) {
        self.set(LEAF | FIRST_FRAME, true);
    }

    pub(super) fn excuse_first_frame(&self) {
        self.set(FIRST_FRAME, false);
    }

    pub(super) fn set_waiting(&self, waiting: bool) {
        self.set(WAITING, waiting);
    }

    pub(super) fn set_writing(&self, writing: bool) {
        self.set(WRITING, writing);
    }

    pub(super) fn set_lingering(&self) {
        self.set(LINGERING, true);
    }

    pub(super) fn state(&self) -> ConnectionState {
        if self.has(LINGERING) {
            ConnectionState::Lingering
        } else if self.has(WRITING | BLOCKED) {
            ConnectionState::Writing
        } else if self.has(WAITING) {
            ConnectionState::Reading
        } else {
            ConnectionState::Calling
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        !self.has(LEAF)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.set(BLOCKED, blocked);
    }

    /// Whether a leaf expects a first frame of the peer. The counters say whether one has arrived.
    pub(super) fn wants_first_frame(&self) -> bool {
        self.has(FIRST_FRAME)
    }

    /// Whether nothing is known to be pending or unwritten.
    pub(super) fn is_quiet(&self) -> bool {
        if self.is_plain() { !self.has(BLOCKED) } else { self.has(WAITING) }
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub(super) fn set_moved(&self, nanos: u64) {
        self.moved.store(nanos, Ordering::Relaxed);
    }
}
