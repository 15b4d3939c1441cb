//! The session leaf: a connection becomes an async function that holds a [`Session`].

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use ropewalk_middleware::{CloseReason, Closing, Connection, Error, Result};
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tower_service::Service;

use super::end;
use super::limits::limit_setters;
use crate::session::{Housed, ReturningWire, Session};
use crate::wire::{Limits, Wire};

/// Makes a service of connections from a codec and an async function that takes a [`Session`].
///
/// ```
/// use ropewalk::{Lines, Server, session};
///
/// let echo = session(Lines::crlf(), async |mut s| {
///     while let Some(line) = s.next().await? {
///         s.feed(line)?;
///     }
///     Ok(())
/// });
/// # let _ = Server::new().listen("tcp:8007").serve(echo);
/// ```
///
/// State that all connections share is passed with [`session_with`]. A closure can capture it too,
/// in the form below; an `async` closure would move it into the first connection's future:
///
/// ```
/// # use std::sync::Arc;
/// # use std::sync::atomic::{AtomicU64, Ordering};
/// # use ropewalk::{Lines, session, Session};
/// let lines = Arc::new(AtomicU64::new(0));
/// session(Lines::crlf(), move |mut s: Session<Lines>| {
///     let lines = Arc::clone(&lines);
///     async move {
///         while s.next().await?.is_some() {
///             s.feed(lines.fetch_add(1, Ordering::Relaxed).to_string())?;
///         }
///         Ok(())
///     }
/// });
/// ```
///
/// The codec is cloned for each connection. An error ends the connection; frames queued before it
/// are still written.
pub fn session<C, F, Fut>(codec: C, f: F) -> SessionLeaf<C, F>
where
    C: Clone,
    F: Fn(Session<C>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send,
{
    SessionLeaf { codec, f: Arc::new(f), limits: Arc::default(), state: PhantomData }
}

/// Does the same as [`session`] for a function that also takes the state of a
/// [`StateLayer`](crate::StateLayer).
///
/// ```
/// use std::sync::Arc;
/// use ropewalk::{Lines, Result, Server, Session, StateLayer, session_with};
///
/// async fn qotd(mut s: Session<Lines>, quote: Arc<str>) -> Result {
///     s.feed(&*quote)?;
///     s.close().await
/// }
///
/// let quote: Arc<str> = "An apple a day keeps the doctor away".into();
/// # let _ =
/// Server::new().listen("tcp:8007").layer(StateLayer::new(quote)).serve(session_with(Lines::crlf(), qotd));
/// ```
pub fn session_with<C, F, T, Fut>(codec: C, f: F) -> SessionLeaf<C, F, WithState<T>>
where
    C: Clone,
    F: Fn(Session<C>, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send,
{
    SessionLeaf { codec, f: Arc::new(f), limits: Arc::default(), state: PhantomData }
}

/// A session function that takes no state.
#[derive(Clone, Copy, Debug)]
pub struct NoState(());

/// A session function that takes a state of type `T`, from a [`StateLayer`](crate::StateLayer).
#[derive(Debug)]
pub struct WithState<T>(PhantomData<T>);

/// The service of connections that [`session`] and [`session_with`] make.
///
/// Whether the function takes state is part of the type, so that the compiler can name what is
/// missing.
#[must_use = "a leaf serves nothing until it is handed to a server"]
pub struct SessionLeaf<C, F, W = NoState> {
    codec: C,
    /// Shared, because it is called in the connection's own task.
    f: Arc<F>,
    /// Shared by all connections.
    limits: Arc<Limits>,
    // The state is held by the layer, not here.
    state: PhantomData<fn() -> W>,
}

impl<C: Clone, F, W> Clone for SessionLeaf<C, F, W> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            f: Arc::clone(&self.f),
            limits: Arc::clone(&self.limits),
            state: PhantomData,
        }
    }
}

impl<C, F, W> SessionLeaf<C, F, W> {
    /// The most bytes that one call of [`Session::raw`] may ask for; 1 MiB by default.
    pub fn raw_limit(mut self, bytes: u64) -> Self {
        Arc::make_mut(&mut self.limits).raw_limit = bytes;
        self
    }

    /// The number of unwritten bytes from which on [`Session::feed`] fails; 1 MiB by default.
    /// Frames queued without an await between them have this much room, plus the bytes that the
    /// kernel accepts at that moment: over TCP about 100 KiB each time the peer reads. If it is
    /// below 64 KiB, it is also the number of unwritten bytes from which on no more frames are read.
    pub fn write_limit(mut self, bytes: usize) -> Self {
        let limits = Arc::make_mut(&mut self.limits);
        limits.write_limit = bytes;
        limits.high_water = bytes.min(Limits::default().high_water);
        self
    }

    limit_setters!();
}

impl<C, F, W> SessionLeaf<C, F, W>
where
    C: Clone + Send + 'static,
    F: Send + Sync + 'static,
{
    fn start<Fut>(
        &self,
        connection: Connection,
        run: impl FnOnce(&F, Session<C>) -> Fut + Send + 'static,
    ) -> SessionFuture<Fut> {
        let closing = connection.closing();
        let (wire, home) = ReturningWire::new(Wire::new(connection, Arc::clone(&self.limits)));
        let session = Session::new(self.codec.clone(), wire);
        let f = Arc::clone(&self.f);
        SessionFuture {
            closing,
            stage: SessionStage::Start(Some(Box::new(move || run(&f, session)))),
            home,
        }
    }
}

impl<C, F, Fut> Service<Connection> for SessionLeaf<C, F>
where
    C: Clone + Send + 'static,
    F: Fn(Session<C>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result>,
{
    type Response = ();
    type Error = Error;
    type Future = SessionFuture<Fut>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        self.start(connection, |f, session| f(session))
    }
}

impl<C, F, T, Fut> Service<(T, Connection)> for SessionLeaf<C, F, WithState<T>>
where
    C: Clone + Send + 'static,
    T: Send + 'static,
    F: Fn(Session<C>, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result>,
{
    type Response = ();
    type Error = Error;
    type Future = SessionFuture<Fut>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (state, connection): (T, Connection)) -> Self::Future {
        self.start(connection, move |f, session| f(session, state))
    }
}

impl<C, F, W> fmt::Debug for SessionLeaf<C, F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLeaf").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// One connection of a [`SessionLeaf`]. It ends when the function has ended and its session is back
/// and closed.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct SessionFuture<Fut> {
    closing: Closing,
    #[pin]
    stage: SessionStage<Fut>,
    home: oneshot::Receiver<Box<Housed>>,
}

type Begin<Fut> = Box<dyn FnOnce() -> Fut + Send>;

#[pin_project(project = StageProjection)]
enum SessionStage<Fut> {
    /// The function has not been called yet. It is called in the connection's task, because it may
    /// work before its first await, which must not happen in the accept loop.
    Start(Option<Begin<Fut>>),
    Run(#[pin] Fut),
    /// The function has ended. Its session may have been moved to another task and live on; the
    /// flag is set once that is known.
    Wait(Result, bool),
    Finish(Pin<Box<dyn Future<Output = Result> + Send>>),
}

impl<Fut: Future<Output = Result>> Future for SessionFuture<Fut> {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Start(begin) => {
                    let Some(begin) = begin.take() else { return Poll::Pending };
                    this.stage.set(SessionStage::Run(begin()));
                }
                StageProjection::Run(run) => {
                    let result = ready!(run.poll(cx));
                    this.stage.set(SessionStage::Wait(result, false));
                }
                StageProjection::Wait(result, moved) => {
                    // Unconstrained, because the function may have used up the task's turn, and
                    // pending must mean that the session was moved.
                    let Poll::Ready(returned) =
                        Pin::new(&mut unconstrained(&mut *this.home)).poll(cx)
                    else {
                        *moved = true;
                        return Poll::Pending;
                    };
                    let result = std::mem::replace(result, Ok(()));
                    match returned {
                        // The error of the task that the session was moved to is not known here.
                        Ok(housed) if *moved && result.is_ok() && housed.wire.is_over_limit() => {
                            this.closing.set_reason(CloseReason::WriteLimit);
                            housed.wire.abort();
                            return Poll::Ready(result);
                        }
                        Ok(housed) => {
                            this.stage
                                .set(SessionStage::Finish(Box::pin(end(housed.wire, result))));
                        }
                        // Closed or aborted by the function itself.
                        Err(_) => {
                            if let Err(error) = &result {
                                this.closing.set_reason(
                                    error.close_reason().unwrap_or(CloseReason::ServiceError),
                                );
                            }
                            return Poll::Ready(result);
                        }
                    }
                }
                StageProjection::Finish(finish) => return finish.as_mut().poll(cx),
            }
        }
    }
}

impl<Fut> fmt::Debug for SessionFuture<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFuture").field("closing", &self.closing).finish_non_exhaustive()
    }
}
