//! `src/outbox` on loom's primitives.

use std::sync::Arc;

#[path = "../../src/outbox/inbox.rs"]
mod inbox;
#[path = "../../src/outbox/queue.rs"]
mod queue;

pub(crate) use self::inbox::Inbox;
use self::queue::Queue;

/// In the library these are the standard library's.
mod sync {
    pub(super) use loom::sync::atomic::AtomicBool;
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    Refuse,
    DropOldest,
    DropNewest,
    Disconnect,
}

#[derive(Debug)]
pub enum PushError<F> {
    Full(F),
    Closed(F),
}

#[derive(Debug)]
pub struct Capacity<F> {
    pub frames: u32,
    pub bytes: usize,
    pub weigh: Option<fn(&F) -> usize>,
}

pub struct Outbox<F>(Arc<Queue<F>>);

impl<F> Outbox<F> {
    pub fn push(&self, frame: F) -> Result<(), PushError<F>> {
        self.0.put(frame, self.0.slow())
    }

    /// Takes a frame, as the connection does.
    pub fn pop(&self) -> Option<F> {
        self.0.pop()
    }
}

impl<F> Clone for Outbox<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
