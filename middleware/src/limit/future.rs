use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pin_project::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::overflow::Overflow;
use super::slot::{ConnectionPlace, Place};
use crate::{CloseReason, Connection};

/// A connection under a limit: served or refused.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, R, P = ConnectionPlace>(#[pin] LimitedStage<F, R, P>);

#[pin_project(project = StageProjection, project_replace = StageReplacement)]
enum LimitedStage<F, R, P> {
    /// The fields are dropped in this order: the connection is gone before its slot is released.
    Served {
        #[pin]
        future: F,
        slot: P,
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

impl<F, R, P> ResponseFuture<F, R, P> {
    pub(crate) fn served(future: F, slot: P) -> Self {
        Self(LimitedStage::Served { future, slot })
    }

    /// Refuses a connection; if too many refusals are under way, without waiting.
    pub(crate) fn refuse<O, E>(
        overflow: &mut O,
        refusals: &Arc<Semaphore>,
        connection: Connection,
    ) -> Self
    where
        O: Overflow<E, Refusal = R>,
    {
        let closing = connection.closing();
        closing.set_refused();
        let connection = match Arc::clone(refusals).try_acquire_owned() {
            Ok(slot) => match overflow.refuse(connection) {
                Ok(refusal) => {
                    closing.set_reason(CloseReason::Refused);
                    return Self(LimitedStage::Refused { refusal, _slot: slot });
                }
                Err(connection) => connection,
            },
            Err(_) => connection,
        };
        closing.set_reason(CloseReason::RefusedAtOnce);
        Self(LimitedStage::RefusedAtOnce { connection, text: overflow.last_words() })
    }
}

impl<F, R, P, E> Future for ResponseFuture<F, R, P>
where
    F: Future<Output = Result<(), E>>,
    R: Future<Output = Result<(), E>>,
    P: Place,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        let result = match state.as_mut().project() {
            StageProjection::Served { future, slot } => {
                ready!(slot.poll_taken(cx));
                ready!(future.poll(cx))
            }
            StageProjection::Refused { refusal, .. } => ready!(refusal.poll(cx)),
            StageProjection::RefusedAtOnce { .. } | StageProjection::Done => Ok(()),
        };
        // The slot is released here, because a finished future may be dropped much later.
        if let StageReplacement::RefusedAtOnce { connection, text } =
            state.project_replace(LimitedStage::Done)
        {
            connection.write_once(&text);
        }
        Poll::Ready(result)
    }
}

impl<F, R, P> fmt::Debug for ResponseFuture<F, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            LimitedStage::Served { .. } => "Served",
            LimitedStage::Refused { .. } => "Refused",
            LimitedStage::RefusedAtOnce { .. } => "RefusedAtOnce",
            LimitedStage::Done => "Done",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}
