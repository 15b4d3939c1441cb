//! The slot of one connection under a limit.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{AcquireError, OwnedSemaphorePermit};

use super::peers::PeerPlace;
use super::slots::Cap;
use crate::Closing;

/// A wait for a slot.
pub(super) type SlotWait =
    Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + Sync>>;

/// The slot that a connection needs before it is served.
pub trait Place {
    /// Ready when the connection has the slot.
    #[doc(hidden)]
    fn poll_taken(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Place for PeerPlace {}

/// The slot of a connection under a layer that doesn't count open connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlimited(());

impl Place for Unlimited {}

/// A connection's slot under a [`ConnectionLimitLayer`](crate::ConnectionLimitLayer); released when
/// dropped.
#[derive(Debug)]
pub struct ConnectionPlace(SlotState);

#[derive(Debug)]
enum SlotState {
    Taken {
        _slot: Taken,
    },
    /// Boxed, so that it adds nothing to the size of the connections that are served.
    Coming(Box<Coming>),
}

/// A slot that is taken.
#[derive(Debug)]
struct Taken {
    cap: Arc<Cap>,
    /// The connection's own handle, if connections make room for others.
    closing: Option<Closing>,
}

/// A slot that becomes free when another connection has made room.
struct Coming {
    cap: Arc<Cap>,
    closing: Option<Closing>,
    permit: SlotWait,
}

impl ConnectionPlace {
    pub(super) fn taken(cap: Arc<Cap>, permit: OwnedSemaphorePermit, closing: &Closing) -> Self {
        permit.forget();
        Self(SlotState::Taken { _slot: Taken { closing: cap.enter(closing), cap } })
    }

    pub(super) fn coming(cap: Arc<Cap>, closing: &Closing) -> Self {
        let permit = Box::pin(Arc::clone(&cap.permits).acquire_owned());
        Self(SlotState::Coming(Box::new(Coming { closing: cap.enter(closing), cap, permit })))
    }
}

impl Place for ConnectionPlace {
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let SlotState::Coming(coming) = &mut self.0 {
            // It can't fail: the semaphore is never closed.
            if let Ok(permit) = ready!(coming.permit.as_mut().poll(cx)) {
                permit.forget();
                let slot = Taken { cap: Arc::clone(&coming.cap), closing: coming.closing.take() };
                self.0 = SlotState::Taken { _slot: slot };
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(closing) = &self.closing {
            self.cap.leave(closing);
        }
        self.cap.permits.add_permits(1);
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(closing) = &self.closing {
            self.cap.leave(closing);
        }
    }
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coming").finish_non_exhaustive()
    }
}
