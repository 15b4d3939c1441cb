//! The framed leaf: every frame that is sent answers a frame that was received.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use ropewalk_middleware::{BoxError, Connection, ConnectionInfo, Error, IntoReply, Result};
use tokio_util::codec::{Decoder, Encoder};
use tower_layer::Layer;
use tower_service::Service;

use super::end;
use super::limits::limit_setters;
use super::opened::{Cloned, LayerWith, MakeFrameService, Opened, PerPeer};
use super::service::FrameService;
use crate::dispatch::{
    AsReady, Calls, Concurrent, Dispatch, EndConnection, Goodbye, InOrder, NoGoodbye, OnError,
    Order, WithGoodbye,
};
use crate::wire::{Limits, Wire};

/// Makes a service of connections from a codec and a service of frames. Every tower layer works
/// around the service of frames.
///
/// ```
/// use ropewalk::{Bytes, Lines, Server, framed, reply_fn};
///
/// let answer = framed(Lines::crlf(), reply_fn(|line: Bytes| match &line[..] {
///     b"How are you?" => "Fine",
///     _ => "I don't know what you mean",
/// }));
/// # let _ = Server::new().listen("tcp:8007").serve(answer);
/// ```
///
/// Codec and service are cloned for each connection. For a service that is not `Clone` (such as
/// tower's `RateLimit`), or that needs to know its peer, use [`per_connection`]. One call runs at a
/// time, in the order of the frames, unless [`Framed::concurrent`] or [`Framed::unordered`] is set.
pub fn framed<C, S, R>(codec: C, service: S) -> Framed<C, Cloned<S>>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>> + Clone,
    S: FrameService<C::Item, Answer = R, Failure: Into<BoxError>> + Clone,
    R: IntoReply,
{
    Framed::new(codec, Cloned::new(service))
}

/// Does the same as [`framed`] with a separate service for each connection, made when the
/// connection begins, as by Twisted's `buildProtocol`. The function receives the connection as an
/// [`Opened`]: its peer, its deadlines, and the values that layers have stored on it.
///
/// ```
/// use ropewalk::{Bytes, Netstring, Reply, per_connection, service_fn};
/// use std::time::Duration;
/// use tower::ServiceBuilder;
///
/// // Ten requests a second for each peer. The stock RateLimit is not Clone, so `framed` could not take it.
/// per_connection(Netstring::new(), |_connection| {
///     ServiceBuilder::new()
///         .rate_limit(10, Duration::from_secs(1))
///         .service(service_fn(async |frame: Bytes| Ok(Reply::one(frame))))
/// });
/// ```
///
/// A service that needs its connection later keeps a handle on it:
///
/// ```
/// use ropewalk::{Bytes, Lines, per_connection, reply_fn};
///
/// per_connection(Lines::lf(), |connection| {
///     let connection = connection.info();
///     reply_fn(move |_: Bytes| format!("{} bytes from {}", connection.stats().bytes_in(), connection.peer()))
/// });
/// ```
pub fn per_connection<C, F, S, R>(codec: C, make: F) -> Framed<C, PerPeer<F>>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>> + Clone,
    F: FnOnce(&Opened<C>) -> S + Clone,
    S: FrameService<C::Item, Answer = R, Failure: Into<BoxError>>,
    R: IntoReply,
{
    Framed::new(codec, PerPeer::new(make))
}

/// The service of connections that [`framed`] and [`per_connection`] make.
#[derive(Clone)]
#[must_use = "a leaf serves nothing until it is handed to a server"]
pub struct Framed<C, M, O = InOrder, E = EndConnection, G = NoGoodbye> {
    codec: C,
    make: M,
    order: O,
    on_error: E,
    goodbye: G,
    /// Shared by all connections.
    limits: Arc<Limits>,
}

impl<C, M> Framed<C, M> {
    fn new(codec: C, make: M) -> Self {
        Self {
            codec,
            make,
            order: InOrder,
            on_error: EndConnection,
            goodbye: NoGoodbye,
            limits: Arc::default(),
        }
    }
}

impl<C, M, O, E, G> Framed<C, M, O, E, G> {
    /// Runs up to `n` calls of one connection at once; answers and errors stay in the order of the
    /// frames.
    pub fn concurrent(self, n: usize) -> Framed<C, M, Concurrent, E, G> {
        let Self { codec, make, on_error, goodbye, limits, .. } = self;
        Framed { codec, make, order: Concurrent(n), on_error, goodbye, limits }
    }

    /// Runs up to `n` calls of one connection at once; each answer is written when it is ready. For
    /// protocols whose frames carry tags. An answer that is a stream is written to its end before
    /// the next one. With `then_close`, calls already under way are answered first; an error that
    /// ends the connection drops them.
    pub fn unordered(self, n: usize) -> Framed<C, M, AsReady, E, G> {
        let Self { codec, make, on_error, goodbye, limits, .. } = self;
        Framed { codec, make, order: AsReady(n), on_error, goodbye, limits }
    }

    /// Puts a layer around the service of frames that is made anew for each connection, by a
    /// function that receives the connection's [`ConnectionInfo`]. Nothing that is made in the
    /// function is shared by two connections, so a layer may keep a connection's own state in any
    /// form. Of several, the one added last sees a frame first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ropewalk::{Bytes, FrameRateLayer, Lines, framed, reply_fn};
    ///
    /// // Peers on this machine may send more lines a second.
    /// framed(Lines::crlf(), reply_fn(|line: Bytes| line)).layer_with(|connection| {
    ///     let local = connection.peer().ip().is_some_and(|ip| ip.is_loopback());
    ///     FrameRateLayer::new(if local { 10_000 } else { 10 }, Duration::from_secs(1))
    /// });
    /// ```
    pub fn layer_with<F, N, S>(self, layer: F) -> Framed<C, LayerWith<M, F>, O, E, G>
    where
        // The last bound makes the compiler say here why a layer does not fit; `serve`, which
        // requires it as well, could only say that this is not a service of connections.
        C: Decoder,
        M: MakeFrameService<C, Service = S>,
        F: FnOnce(&ConnectionInfo) -> N,
        N: Layer<S, Service: Service<C::Item>>,
    {
        let Self { codec, make, order, on_error, goodbye, limits } = self;
        Framed { codec, make: LayerWith::new(make, layer), order, on_error, goodbye, limits }
    }

    /// Turns errors into answers: errors of the service, of a layer around it (`Elapsed`,
    /// `Overloaded` …), of an answer that is a stream and of the codec, and the errors of missed
    /// [`ReadDeadlines`](crate::connection::ReadDeadlines).
    ///
    /// The connection goes on after an error of the service, after an answer that the codec refused
    /// to encode, and after a recoverable error of the codec, unless the answer has `then_close`.
    /// After a fatal error of the codec, and after a missed read deadline, the connection closes
    /// once the answer is written.
    ///
    /// ```
    /// use ropewalk::{Bytes, Error, Lines, framed, reply_fn};
    ///
    /// framed(Lines::crlf().skip_too_long(), reply_fn(|line: Bytes| line))
    ///     .on_error(|_: &Error| Bytes::from_static(b"500 line too long"));
    /// ```
    pub fn on_error<H, A, S, R>(self, on_error: H) -> Framed<C, M, O, H, G>
    where
        // `serve` requires these bounds as well; repeated here, they make the compiler report a
        // wrong answer here.
        C: Decoder,
        M: MakeFrameService<C, Service = S>,
        S: Service<C::Item, Response = R>,
        R: IntoReply,
        H: FnMut(&Error) -> A,
        A: IntoReply<Frame = R::Frame>,
    {
        let Self { codec, make, order, goodbye, limits, .. } = self;
        Framed { codec, make, order, on_error, goodbye, limits }
    }

    /// Sets the goodbye: an answer that is sent when the connection drains, after all other answers
    /// and after the [pushed](crate::Outbox) frames, unless the peer had closed its side by then.
    /// Then the connection closes.
    ///
    /// Not only a server that ends drains its connections: a
    /// [`LifetimeLayer`](crate::layer::LifetimeLayer), a [`LoginLayer`](crate::layer::LoginLayer)
    /// and [`Handle::drain_these`](crate::Handle::drain_these) do so as well, with this goodbye.
    ///
    /// ```
    /// use ropewalk::{Bytes, Lines, framed, reply_fn};
    ///
    /// framed(Lines::crlf(), reply_fn(|line: Bytes| line)).on_drain(|| Bytes::from_static(b"421 shutting down"));
    /// ```
    pub fn on_drain<D, A, S, R>(self, goodbye: D) -> Framed<C, M, O, E, D>
    where
        C: Decoder,
        M: MakeFrameService<C, Service = S>,
        S: Service<C::Item, Response = R>,
        R: IntoReply,
        D: FnMut() -> A,
        A: IntoReply<Frame = R::Frame>,
    {
        let Self { codec, make, order, on_error, limits, .. } = self;
        Framed { codec, make, order, on_error, goodbye, limits }
    }

    limit_setters!();
}

impl<C, M, O, E, G> fmt::Debug for Framed<C, M, O, E, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<C, M, O, E, G, S, R> Service<Connection> for Framed<C, M, O, E, G>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>> + Clone + 'static,
    M: MakeFrameService<C, Service = S> + Clone,
    S: Service<C::Item, Response = R, Error: Into<BoxError>>,
    R: IntoReply<Frame: 'static>,
    O: Order + Clone,
    E: OnError<R::Frame> + Clone,
    G: Goodbye<R::Frame> + Clone,
{
    type Response = ();
    type Error = Error;
    type Future = FramedFuture<
        Self,
        Dispatch<C, S, C::Item, R::Frame, O::Calls<S::Future>, WithGoodbye<E, G>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let wire = Wire::new(connection, Arc::clone(&self.limits));
        FramedFuture { wire: Some(wire), stage: FramedStage::Start(Some(self.clone())) }
    }
}

/// One connection of a [`Framed`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FramedFuture<L, D> {
    wire: Option<Wire>,
    #[pin]
    stage: FramedStage<L, D>,
}

#[pin_project(project = StageProjection)]
enum FramedStage<L, D> {
    /// The first poll makes the service, so that this happens in the connection's task and not in
    /// the accept loop.
    Start(Option<L>),
    Run(#[pin] D),
    Finish(Pin<Box<dyn Future<Output = Result> + Send>>),
    Done,
}

impl<C, M, O, E, G, S, R, Q> Future
    for FramedFuture<Framed<C, M, O, E, G>, Dispatch<C, S, C::Item, R::Frame, Q, WithGoodbye<E, G>>>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>> + 'static,
    M: MakeFrameService<C, Service = S>,
    S: Service<C::Item, Response = R, Error: Into<BoxError>>,
    R: IntoReply<Frame: 'static>,
    O: Order<Calls<S::Future> = Q>,
    Q: Calls<S::Future>,
    E: OnError<R::Frame>,
    G: Goodbye<R::Frame>,
{
    type Output = Result;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        let mut this = self.project();
        loop {
            let next = match this.stage.as_mut().project() {
                StageProjection::Start(leaf) => {
                    let (Some(leaf), Some(wire)) = (leaf.take(), &this.wire) else {
                        return Poll::Pending;
                    };
                    let opened = Opened::new(wire.connection().info());
                    let service = leaf.make.make(&opened);
                    let calls = leaf.order.calls::<S::Future>();
                    let last_words = WithGoodbye { on_error: leaf.on_error, goodbye: leaf.goodbye };
                    FramedStage::Run(Dispatch::new(
                        leaf.codec,
                        opened.into_inbox(),
                        service,
                        calls,
                        last_words,
                    ))
                }
                StageProjection::Run(dispatch) => {
                    let Some(wire) = this.wire else { return Poll::Pending };
                    let result = ready!(dispatch.poll(wire, cx));
                    match this.wire.take() {
                        Some(wire) => FramedStage::Finish(Box::pin(end(wire, result))),
                        None => FramedStage::Done,
                    }
                }
                StageProjection::Finish(finish) => {
                    let result = ready!(finish.as_mut().poll(cx));
                    this.stage.set(FramedStage::Done);
                    return Poll::Ready(result);
                }
                StageProjection::Done => return Poll::Ready(Ok(())),
            };
            this.stage.set(next);
        }
    }
}

impl<L, D> fmt::Debug for FramedFuture<L, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramedFuture").field("wire", &self.wire).finish_non_exhaustive()
    }
}
