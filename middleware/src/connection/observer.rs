//! An observer of the bytes of one connection.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Connection;

/// What an observer sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moved<'a> {
    /// Bytes of the peer; if there are no bytes, the end of what it sends.
    Read(&'a [u8]),
    /// Bytes that the transport has accepted.
    Written(&'a [u8]),
    /// No more will be written.
    Shut,
    /// The connection is dropped.
    Ended { is_reset: bool },
}

/// Sees the bytes of a connection as its owner reads and writes them. It is called where the
/// connection is polled or dropped, so it must not block.
pub(crate) trait ByteObserver: Send + Sync {
    fn saw(&self, connection: &Connection, moved: Moved<'_>);
}

/// The place of an observer, on connections that have or had one.
#[derive(Default)]
pub(super) struct ObserverSlot {
    /// Looked at before the lock.
    is_taken: AtomicBool,
    observer: Mutex<Option<Arc<dyn ByteObserver>>>,
}

impl ObserverSlot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn ByteObserver>>> {
        // Only an `Arc` is replaced under the lock.
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> Option<Arc<dyn ByteObserver>> {
        if self.is_taken.load(Ordering::Relaxed) { self.lock().clone() } else { None }
    }

    pub(super) fn set(&self, observer: Arc<dyn ByteObserver>) {
        let mut slot = self.lock();
        self.is_taken.store(true, Ordering::Relaxed);
        // The old one is dropped after the lock is released.
        let _old = slot.replace(observer);
        drop(slot);
    }

    /// Takes this observer away, if it has not been replaced.
    pub(super) fn clear(&self, observer: &dyn ByteObserver) {
        let mut slot = self.lock();
        let observer = std::ptr::from_ref(observer);
        if slot.as_ref().is_some_and(|known| std::ptr::addr_eq(Arc::as_ptr(known), observer)) {
            self.is_taken.store(false, Ordering::Relaxed);
            let _old = slot.take();
            drop(slot);
        }
    }
}

impl fmt::Debug for ObserverSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserverSlot").field("is_taken", &self.is_taken).finish_non_exhaustive()
    }
}
