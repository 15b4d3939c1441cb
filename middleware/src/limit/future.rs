use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pin_project::pin_project;
use tokio::sync::OwnedSemaphorePermit;

use crate::Connection;

/// A connection under a cap: served or refused.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, R>(#[pin] State<F, R>);

#[pin_project(project = StateProj, project_replace = StateReplace)]
enum State<F, R> {
    /// The fields are dropped in this order: the connection is gone before its place is free.
    Served {
        #[pin]
        future: F,
        _place: OwnedSemaphorePermit,
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

impl<F, R> ResponseFuture<F, R> {
    pub(super) fn served(future: F, place: OwnedSemaphorePermit) -> Self {
        Self(State::Served { future, _place: place })
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
            StateProj::Served { future, .. } => ready!(future.poll(cx)),
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
            State::Served { .. } => "Served",
            State::Refused { .. } => "Refused",
            State::RefusedAtOnce { .. } => "RefusedAtOnce",
            State::Done => "Done",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}
