//! Where a session's connection goes when the session is dropped: back to its leaf, which closes it properly.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio::sync::oneshot;

use crate::wire::Wire;

/// A wire that goes home when it is dropped.
pub(crate) struct Homing {
    // Boxed: an async fn keeps its argument twice. Always there until it is taken by value.
    wire: Option<Box<Wire>>,
    home: Option<oneshot::Sender<Box<Wire>>>,
}

impl Homing {
    pub(crate) fn new(wire: Wire) -> (Self, oneshot::Receiver<Box<Wire>>) {
        let (home, leaf) = oneshot::channel();
        (Self { wire: Some(Box::new(wire)), home: Some(home) }, leaf)
    }

    /// Takes the wire. Its leaf waits as long as the second part is kept, and then sees that there is nothing to close.
    pub(crate) fn take(mut self) -> (Option<Box<Wire>>, Option<oneshot::Sender<Box<Wire>>>) {
        (self.wire.take(), self.home.take())
    }
}

impl Deref for Homing {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        // Taken only by value, by `take` and `drop`, after which nobody can deref.
        self.wire.as_deref().expect("the wire is there until the session is gone")
    }
}

impl DerefMut for Homing {
    fn deref_mut(&mut self) -> &mut Wire {
        self.wire.as_deref_mut().expect("the wire is there until the session is gone")
    }
}

impl Drop for Homing {
    fn drop(&mut self) {
        if let (Some(wire), Some(home)) = (self.wire.take(), self.home.take()) {
            // A leaf that is gone itself (aborted) wants nothing back: the connection closes here.
            drop(home.send(wire));
        }
    }
}

impl fmt::Debug for Homing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wire.fmt(f)
    }
}
