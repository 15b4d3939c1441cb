//! What happens to a connection over the limit.

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

/// How long a refused peer has to accept the text, before the lingering close begins.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long the service of [`refuse_by`] may take for one connection, which is then dropped.
///
/// [`refuse_by`]: crate::ConnectionLimitLayer::refuse_by
pub const MAX_REFUSAL_TIME: Duration = Duration::from_secs(10);

/// What happens to a connection over the limit: [`Wait`], [`RefuseWith`] or [`RefuseBy`]. Sealed.
pub trait Overflow<E>: sealed::Sealed {
    /// The future that refuses a connection.
    #[doc(hidden)]
    type Refusal: Future<Output = Result<(), E>>;

    /// Whether connections over the limit stay in the backlog.
    #[doc(hidden)]
    const WAITS: bool;

    /// Refuses a connection, or returns it if that can't be done at this moment.
    #[doc(hidden)]
    fn refuse(&mut self, connection: Connection) -> Result<Self::Refusal, Connection>;

    /// The text for a connection when too many refusals are under way.
    #[doc(hidden)]
    fn last_words(&self) -> Bytes {
        Bytes::new()
    }
}

/// The overflows that refuse: [`RefuseWith`] and [`RefuseBy`]. Sealed.
#[diagnostic::on_unimplemented(
    message = "`per_listener` and `make_room` are for limits that refuse",
    label = "this limit waits",
    note = "call `refuse_with` or `refuse_by` first",
    note = "a limit that waits leaves connections in the backlog, before their endpoint or address is known; \
            `Server::make_room` sets which connections make room at `Server::max_connections`"
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

/// Connections over the limit are not accepted until a slot is free.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait(pub(super) ());

impl<E> Overflow<E> for Wait {
    type Refusal = Ready<Result<(), E>>;
    const WAITS: bool = true;

    fn refuse(&mut self, connection: Connection) -> Result<Self::Refusal, Connection> {
        Err(connection)
    }
}

/// Connections over the limit get a text and are closed.
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
    // A peer that doesn't even accept the text gets no lingering close.
    if let Ok(Ok(())) = told.await {
        connection.close().await;
    }
}

/// A refusal under way. Boxed, so that it adds nothing to the size of the connections that are
/// served.
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

/// Connections over the limit are served by another service.
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

/// A refusal by another service, for at most [`MAX_REFUSAL_TIME`], so that peers that are slow on
/// purpose can't occupy all slots for refusals.
#[pin_project]
#[derive(Debug)]
pub struct Brief<F> {
    #[pin]
    future: F,
    /// Made at the first wait; boxed so that it doesn't add to the size of served connections.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<F, E> Future for Brief<F>
where
    F: Future<Output = Result<(), E>>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The deadline is polled first: once a peer that keeps sending has used up the task's
        // budget, every timer returns `Pending`.
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

/// Whether a service is ready at this moment.
///
/// It registers a waker that wakes no task, so a task that wants to wait afterwards has to poll
/// again.
pub(super) fn is_ready_now<S: Service<Connection>>(service: &mut S) -> bool {
    matches!(service.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}
