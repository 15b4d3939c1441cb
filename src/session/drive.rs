//! The way from a session to a service of frames: greet, authenticate, then serve.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use super::{ReturningWire, Session};
use crate::dispatch::{
    AsReady, Concurrent, Dispatch, EndConnection, Goodbye, InOrder, NoGoodbye, OnError, Order,
    WithGoodbye,
};
use ropewalk_middleware::{BoxError, Error, IntoReply, Result};

impl<C> Session<C> {
    /// Serves the rest of the connection with a service of frames, as [`framed`](crate::framed)
    /// does.
    ///
    /// ```
    /// # use ropewalk::{Bytes, Lines, Reply, Result, Session, service_fn};
    /// # async fn doc(mut s: Session<Lines>) -> Result {
    /// s.feed("220 ready")?;
    /// s.drive(service_fn(async |line: Bytes| Ok(Reply::one(line)))).concurrent(4).await
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe, because it owns the session. Dropping it drops the calls under way; answers
    /// queued before are still written, and the connection closes.
    ///
    /// # Errors
    ///
    /// Errors of the service, the codec and the connection that end the connection.
    pub fn drive<S>(self, service: S) -> Drive<C, S> {
        Drive {
            session: self,
            service,
            order: InOrder,
            on_error: EndConnection,
            goodbye: NoGoodbye,
        }
    }
}

/// A session and the service it will be served with: see [`Session::drive`]. Await it.
#[must_use = "nothing is served until it is awaited"]
pub struct Drive<C, S, O = InOrder, E = EndConnection, G = NoGoodbye> {
    session: Session<C>,
    service: S,
    order: O,
    on_error: E,
    goodbye: G,
}

impl<C, S, O, E, G> Drive<C, S, O, E, G> {
    /// Runs up to `n` calls at once; answers stay in the order of the frames.
    pub fn concurrent(self, n: usize) -> Drive<C, S, Concurrent, E, G> {
        let Self { session, service, on_error, goodbye, .. } = self;
        Drive { session, service, order: Concurrent(n), on_error, goodbye }
    }

    /// Runs up to `n` calls at once; each answer is written when it is ready.
    pub fn unordered(self, n: usize) -> Drive<C, S, AsReady, E, G> {
        let Self { session, service, on_error, goodbye, .. } = self;
        Drive { session, service, order: AsReady(n), on_error, goodbye }
    }

    /// Turns codec and service errors into answers, as
    /// [`Framed::on_error`](crate::leaf::Framed::on_error) does.
    pub fn on_error<H, A, R>(self, on_error: H) -> Drive<C, S, O, H, G>
    where
        C: Decoder,
        S: Service<C::Item, Response = R>,
        R: IntoReply,
        H: FnMut(&Error) -> A,
        A: IntoReply<Frame = R::Frame>,
    {
        let Self { session, service, order, goodbye, .. } = self;
        Drive { session, service, order, on_error, goodbye }
    }

    /// Sets the goodbye, an answer that is sent when the connection drains, as
    /// [`Framed::on_drain`](crate::leaf::Framed::on_drain) does.
    pub fn on_drain<D, A, R>(self, goodbye: D) -> Drive<C, S, O, E, D>
    where
        C: Decoder,
        S: Service<C::Item, Response = R>,
        R: IntoReply,
        D: FnMut() -> A,
        A: IntoReply<Frame = R::Frame>,
    {
        let Self { session, service, order, on_error, .. } = self;
        Drive { session, service, order, on_error, goodbye }
    }
}

impl<C, S, O, E, G> fmt::Debug for Drive<C, S, O, E, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").field("session", &self.session).finish_non_exhaustive()
    }
}

impl<C, S, O, E, G, R> IntoFuture for Drive<C, S, O, E, G>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>> + 'static,
    S: Service<C::Item, Response = R, Error: Into<BoxError>>,
    R: IntoReply<Frame: 'static>,
    O: Order,
    E: OnError<R::Frame>,
    G: Goodbye<R::Frame>,
{
    type Output = Result;
    type IntoFuture =
        Driving<Dispatch<C, S, C::Item, R::Frame, O::Calls<S::Future>, WithGoodbye<E, G>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Session { codec, inbox, wire } = self.session;
        let calls = self.order.calls::<S::Future>();
        let last_words = WithGoodbye { on_error: self.on_error, goodbye: self.goodbye };
        Driving { wire, dispatch: Dispatch::new(codec, inbox, self.service, calls, last_words) }
    }
}

/// The future of [`Drive`].
#[pin_project]
pub struct Driving<D> {
    wire: ReturningWire,
    #[pin]
    dispatch: D,
}

impl<D> fmt::Debug for Driving<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driving").field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl<C, S, Q, E, R> Future for Driving<Dispatch<C, S, C::Item, R::Frame, Q, E>>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>> + 'static,
    S: Service<C::Item, Response = R, Error: Into<BoxError>>,
    R: IntoReply<Frame: 'static>,
    Q: crate::dispatch::Calls<S::Future>,
    E: OnError<R::Frame>,
{
    type Output = Result;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        let this = self.project();
        this.wire.check_live()?;
        let result = ready!(this.dispatch.poll(this.wire, cx));
        Poll::Ready(result)
    }
}
