//! Where a session's connection goes when the session is dropped: back to its leaf, which closes it properly.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio::sync::oneshot;

use crate::wire::Wire;

/// A wire that goes home when it is dropped.
pub(crate) struct Homing {
    // Boxed, and the way home with it: an async fn keeps its argument twice. There until it is taken by value.
    housed: Option<Box<Housed>>,
}

/// A wire, and the way home.
pub(crate) struct Housed {
    pub(crate) wire: Wire,
    home: Option<oneshot::Sender<Box<Self>>>,
}

impl Homing {
    pub(crate) fn new(wire: Wire) -> (Self, oneshot::Receiver<Box<Housed>>) {
        let (home, leaf) = oneshot::channel();
        (Self { housed: Some(Box::new(Housed { wire, home: Some(home) })) }, leaf)
    }

    /// Takes the wire. Its leaf waits as long as the second part is kept, and then sees that there is nothing to close.
    pub(crate) fn take(mut self) -> (Option<Wire>, Option<oneshot::Sender<Box<Housed>>>) {
        self.housed.take().map_or((None, None), |housed| (Some(housed.wire), housed.home))
    }
}

impl Deref for Homing {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        // Taken only by value, by `take` and `drop`, after which nobody can deref.
        &self.housed.as_deref().expect("the wire is there until the session is gone").wire
    }
}

impl DerefMut for Homing {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.housed.as_deref_mut().expect("the wire is there until the session is gone").wire
    }
}

impl Drop for Homing {
    fn drop(&mut self) {
        if let Some(mut housed) = self.housed.take()
            && let Some(home) = housed.home.take()
        {
            // A leaf that is gone itself (aborted) wants nothing back: the connection closes here.
            drop(home.send(housed));
        }
    }
}

impl fmt::Debug for Homing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
