//! Returns the connection of a dropped session to its leaf, which closes it properly.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio::sync::oneshot;

use crate::wire::Wire;

/// A wire that returns to its leaf when this is dropped.
pub(crate) struct ReturningWire {
    // Boxed together with the sender, because an async fn stores its argument twice. `Some` until
    // it is taken by value.
    housed: Option<Box<Housed>>,
}

/// A wire, and the sender that returns it to its leaf.
pub(crate) struct Housed {
    pub(crate) wire: Wire,
    home: Option<Home>,
}

/// Where a wire returns to when its session is dropped.
pub(crate) enum Home {
    Leaf(oneshot::Sender<Box<Housed>>),
    /// It belongs to no leaf, so a task of its own closes it.
    Task,
}

impl ReturningWire {
    pub(crate) fn new(wire: Wire) -> (Self, oneshot::Receiver<Box<Housed>>) {
        let (home, leaf) = oneshot::channel();
        (Self { housed: Some(Box::new(Housed { wire, home: Some(Home::Leaf(home)) })) }, leaf)
    }

    /// Makes one that belongs to no leaf.
    pub(crate) fn without_leaf(wire: Wire) -> Self {
        Self { housed: Some(Box::new(Housed { wire, home: Some(Home::Task) })) }
    }

    /// Whether it belongs to a leaf, which closes it when it is dropped.
    pub(crate) fn has_leaf(&self) -> bool {
        self.housed.as_ref().is_some_and(|housed| matches!(housed.home, Some(Home::Leaf(_))))
    }

    /// Takes the wire of one that belongs to no leaf.
    pub(crate) fn take_own(mut self) -> Option<Box<Wire>> {
        let owned =
            self.housed.as_ref().is_some_and(|housed| matches!(housed.home, Some(Home::Task)));
        if owned { self.housed.take().map(|housed| Box::new(housed.wire)) } else { None }
    }

    /// Takes the wire. The leaf waits until the returned home is dropped, and then sees that it has
    /// no wire to close.
    pub(crate) fn take(mut self) -> (Option<Wire>, Option<Home>) {
        self.housed.take().map_or((None, None), |housed| (Some(housed.wire), housed.home))
    }
}

impl Deref for ReturningWire {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        // It is taken only by `take`, which consumes this value, and by `drop`; no code can
        // dereference it afterwards.
        &self.housed.as_deref().expect("the wire is there until the session is gone").wire
    }
}

impl DerefMut for ReturningWire {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.housed.as_deref_mut().expect("the wire is there until the session is gone").wire
    }
}

impl Drop for ReturningWire {
    fn drop(&mut self) {
        if let Some(mut housed) = self.housed.take()
            && let Some(home) = housed.home.take()
        {
            match home {
                // If the leaf is gone (aborted), the connection is closed here.
                Home::Leaf(leaf) => drop(leaf.send(housed)),
                Home::Task => close_in_task(housed),
            }
        }
    }
}

impl fmt::Debug for ReturningWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A drop can't wait. Outside of a runtime it is a plain close.
fn close_in_task(mut housed: Box<Housed>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            if housed.wire.finish().await.is_err() {
                housed.wire.abort();
            }
        });
    }
}
