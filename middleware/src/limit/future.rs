use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pin_project::pin_project;
use tokio::sync::OwnedSemaphorePermit;

use super::service::Waiting;
use crate::{CloseReason, Closing, Connection};

/// A connection under a cap: served, waiting to be, or refused.
#[pin_project]
pub struct ResponseFuture<F, R>(#[pin] State<F, R>);

#[pin_project(project = StateProj, project_replace = StateReplace)]
enum State<F, R> {
    /// The fields are dropped in this order: the connection is gone before its place is free.
    Served {
        #[pin]
        future: F,
        place: Place,
    },
    Refused {
        #[pin]
        refusal: R,
        _slot: OwnedSemaphorePermit,
    },
    RefusedAtOnce {
        connection: Connection,
        text: Bytes,
    },
    Done,
}

enum Place {
    Taken { _permit: OwnedSemaphorePermit },
    Awaited { waiting: Waiting, closing: Closing },
}

impl Place {
    /// Whether there is a place at last, or none will be needed any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let Self::Awaited { waiting, closing } = self else { return Poll::Ready(Some(())) };
        // Nothing of a waiting connection was read: there is nothing to finish.
        if closing.poll_draining(cx).is_ready() {
            closing.set_reason(CloseReason::Drained);
            return Poll::Ready(None);
        }
        let permit = ready!(waiting.as_mut().poll(cx)).ok();
        Poll::Ready(permit.map(|permit| *self = Self::Taken { _permit: permit }))
    }
}

impl<F, R> ResponseFuture<F, R> {
    pub(super) fn served(future: F, place: OwnedSemaphorePermit) -> Self {
        Self(State::Served { future, place: Place::Taken { _permit: place } })
    }

    pub(super) fn waiting(future: F, waiting: Waiting, closing: Closing) -> Self {
        Self(State::Served { future, place: Place::Awaited { waiting, closing } })
    }

    pub(super) fn refused(refusal: R, slot: OwnedSemaphorePermit) -> Self {
        Self(State::Refused { refusal, _slot: slot })
    }

    pub(super) fn refused_at_once(connection: Connection, text: Bytes) -> Self {
        Self(State::RefusedAtOnce { connection, text })
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<(), E>>,
    R: Future<Output = Result<(), E>>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        let result = match state.as_mut().project() {
            StateProj::Served { future, place } => match ready!(place.poll(cx)) {
                Some(()) => ready!(future.poll(cx)),
                None => Ok(()),
            },
            StateProj::Refused { refusal, .. } => ready!(refusal.poll(cx)),
            StateProj::RefusedAtOnce { .. } | StateProj::Done => Ok(()),
        };
        // The place is given back here, not when somebody gets round to dropping a future that is done.
        if let StateReplace::RefusedAtOnce { connection, text } = state.project_replace(State::Done) {
            connection.write_once(&text);
        }
        Poll::Ready(result)
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Served { place: Place::Awaited { .. }, .. } => "Waiting",
            State::Served { .. } => "Served",
            State::Refused { .. } => "Refused",
            State::RefusedAtOnce { .. } => "RefusedAtOnce",
            State::Done => "Done",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}
