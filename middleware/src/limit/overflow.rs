//! What becomes of a connection over the cap.

use std::fmt;
use std::future::{Future, Ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use pin_project::pin_project;
use tokio::io::AsyncWriteExt;
use tokio::time::{Sleep, sleep, timeout};
use tower_service::Service;

use crate::Connection;

/// How long a refused peer has to take the text, before the lingering close begins.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long the service of [`refuse_by`] may take over one connection; then it is dropped.
///
/// [`refuse_by`]: crate::ConnectionLimitLayer::refuse_by
pub const MAX_REFUSAL_TIME: Duration = Duration::from_secs(10);

/// What becomes of a connection over the cap: [`Wait`], [`RefuseWith`] or [`RefuseBy`]. Sealed.
pub trait Overflow<E>: sealed::Sealed {
    /// What tells the peer.
    #[doc(hidden)]
    type Refusal: Future<Output = Result<(), E>>;

    /// Whether the connections over the cap are left where they are.
    #[doc(hidden)]
    const WAITS: bool;

    /// Refuses a connection, or gives it back when that can't be done at this moment.
    #[doc(hidden)]
    fn refuse(&mut self, connection: Connection) -> Result<Self::Refusal, Connection>;

    /// What is still said when there is no room for a proper refusal.
    #[doc(hidden)]
    fn last_words(&self) -> Bytes {
        Bytes::new()
    }
}

/// The ways that refuse: [`RefuseWith`] and [`RefuseBy`]. Sealed.
#[diagnostic::on_unimplemented(
    message = "`per_listener` and `make_room` are for limits that refuse",
    label = "this limit waits",
    note = "call `refuse_with` or `refuse_by` first",
    note = "a limit that waits leaves connections in the backlog, where nobody knows which endpoint or address they are of; \
            `Server::make_room` says who makes room when `Server::max_connections` are open"
)]
pub trait Refuses: sealed::Sealed {}

impl Refuses for RefuseWith {}

impl<R> Refuses for RefuseBy<R> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Wait {}
    impl Sealed for super::RefuseWith {}
    impl<R> Sealed for super::RefuseBy<R> {}
}

/// Connections over the cap are not accepted until there is room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait(pub(super) ());

impl<E> Overflow<E> for Wait {
    type Refusal = Ready<Result<(), E>>;
    const WAITS: bool = true;

    fn refuse(&mut self, connection: Connection) -> Result<Self::Refusal, Connection> {
        Err(connection)
    }
}

/// Connections over the cap are told so with a text, and closed.
#[derive(Clone, Debug)]
pub struct RefuseWith(pub(crate) Bytes);

impl<E> Overflow<E> for RefuseWith {
    type Refusal = Farewell<E>;
    const WAITS: bool = false;

    fn refuse(&mut self, connection: Connection) -> Result<Self::Refusal, Connection> {
        Ok(Farewell { future: Box::pin(farewell(connection, self.0.clone())), error: PhantomData })
    }

    fn last_words(&self) -> Bytes {
        self.0.clone()
    }
}

async fn farewell(mut connection: Connection, text: Bytes) {
    let told = timeout(FAREWELL, async {
        connection.write_all(&text).await?;
        connection.flush().await
    });
    // A peer that will not even take the text is not waited for again.
    if let Ok(Ok(())) = told.await {
        connection.close().await;
    }
}

/// A refusal under way. Boxed, so that it adds nothing to the size of the connections that are served.
pub struct Farewell<E> {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    error: PhantomData<fn() -> E>,
}

impl<E> Future for Farewell<E> {
    type Output = Result<(), E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(self.future.as_mut().poll(cx));
        Poll::Ready(Ok(()))
    }
}

impl<E> fmt::Debug for Farewell<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Farewell").finish_non_exhaustive()
    }
}

/// Connections over the cap are served by another service.
#[derive(Clone, Debug)]
pub struct RefuseBy<R>(pub(crate) R);

impl<R> Overflow<R::Error> for RefuseBy<R>
where
    R: Service<Connection, Response = ()>,
{
    type Refusal = Brief<R::Future>;
    const WAITS: bool = false;

    fn refuse(&mut self, connection: Connection) -> Result<Self::Refusal, Connection> {
        if !is_ready_now(&mut self.0) {
            return Err(connection);
        }
        Ok(Brief { future: self.0.call(connection), deadline: None })
    }
}

/// A refusal by another service, for [`MAX_REFUSAL_TIME`]: peers that are slow on purpose must not keep all the room
/// there is for refusals.
#[pin_project]
#[derive(Debug)]
pub struct Brief<F> {
    #[pin]
    future: F,
    /// Made when there is something to wait for; boxed for the size of the connections that are served.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<F, E> Future for Brief<F>
where
    F: Future<Output = Result<(), E>>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // First: once a peer that always has more to say has used up the task's turn, every timer says "not yet".
        if let Some(deadline) = this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(result) = this.future.poll(cx) {
            return Poll::Ready(result);
        }
        if this.deadline.is_none() {
            let deadline = this.deadline.insert(Box::pin(sleep(MAX_REFUSAL_TIME)));
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

/// Whether a service is ready at this moment, asked without waiting for it.
///
/// It leaves a waker behind that wakes no task: a task that waits afterwards has to poll again, as any other.
pub(super) fn is_ready_now<S: Service<Connection>>(service: &mut S) -> bool {
    matches!(service.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}
