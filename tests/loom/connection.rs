//! A connection as an outbox sees it.

use std::sync::Arc;
use std::task::Context;

use loom::future::AtomicWaker;

use super::CloseReason;

/// The waker of the task that moves the bytes: one place, as in
/// `middleware/src/connection/closing.rs`.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo(Arc<AtomicWaker>);

impl ConnectionInfo {
    pub fn id(&self) -> u64 {
        0
    }

    pub fn wake(&self) {
        self.0.wake();
    }

    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.0))
    }
}

#[derive(Clone, Debug)]
pub struct Closing(Arc<AtomicWaker>);

impl Closing {
    pub fn watch(&self, cx: &mut Context<'_>) {
        self.0.register_by_ref(cx.waker());
    }

    pub fn abort_for(&self, _reason: CloseReason) {
        self.0.wake();
    }
}
