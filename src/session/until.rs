//! Serves a session with a service of frames until a certain frame arrives.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use pin_project::{pin_project, pinned_drop};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use super::{ReturningWire, Session};
use crate::dispatch::{Calls, Copied, Dispatch, EndConnection, InOrder, Order};
use crate::outbox::Inbox;
use ropewalk_middleware::{BoxError, IntoReply, Reply, Result};

impl<C> Session<C> {
    /// Serves frames with a service, as [`Session::drive`] does, until `until` returns true for a
    /// frame. That frame is returned, not served, when the calls before it are answered; the bytes
    /// after it are not decoded. `None` at the end of the input, in a drain, and after an answer
    /// with [`then_close`](Reply::then_close): the session's function should return then.
    ///
    /// One call runs at a time. Frames pushed to the session's outboxes are written between
    /// answers.
    ///
    /// ```
    /// use ropewalk::{Bytes, Lines, Result, Session, reply_fn};
    ///
    /// /// Counts lines, and takes 4 raw bytes after a line `raw`.
    /// async fn serve(mut s: Session<Lines>) -> Result {
    ///     let mut count = 0;
    ///     let mut service = reply_fn(move |_: Bytes| {
    ///         count += 1;
    ///         format!("line {count}")
    ///     });
    ///     while let Some(_raw) = s.drive_until(&mut service, |line| line == "raw").await? {
    ///         let bytes = s.raw(4).await?;
    ///         s.feed_raw(bytes)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if it is dropped before it is ready, the call under way is dropped, and its
    /// frame is not answered. The session can go on.
    ///
    /// # Errors
    ///
    /// Errors of the service, the codec and the connection. After an error of the service, and
    /// after a recoverable one of the codec, the session can go on.
    pub fn drive_until<'a, S, R, P>(
        &'a mut self,
        service: &'a mut S,
        until: P,
    ) -> impl Future<Output = Result<Option<C::Item>>>
    where
        C: Decoder<Error: Into<BoxError>> + Encoder<R::Frame, Error: Into<BoxError>>,
        S: Service<C::Item, Response = R, Error: Into<BoxError>>,
        R: IntoReply,
        P: FnMut(&C::Item) -> bool,
    {
        let Self { codec, inbox, wire } = self;
        let found = Arc::new(Found::default());
        let codec = UntilCodec { codec, until, found: Arc::clone(&found) };
        let service = Until { service, found: Arc::clone(&found) };
        let calls = one_at_a_time::<_, UntilFuture<S::Future>>(&InOrder);
        let dispatch = Dispatch::new(codec, Inbox::default(), service, calls, EndConnection);
        DriveUntil { wire, inbox, dispatch, found, begun: false }
    }
}

/// The methods of an [`Order`] come from its sealed supertrait, so they are visible only for a type
/// parameter.
fn one_at_a_time<O: Order, F: Future>(order: &O) -> O::Calls<F> {
    order.calls()
}

/// The place of the frame that ends the drive. The codec puts it there, and the service learns of
/// it; they are in different fields of the dispatch.
struct Found<I> {
    /// So that the service needs no lock for each frame.
    here: AtomicBool,
    frame: Mutex<Option<I>>,
}

impl<I> Default for Found<I> {
    fn default() -> Self {
        Self { here: AtomicBool::new(false), frame: Mutex::new(None) }
    }
}

impl<I> Found<I> {
    fn put(&self, frame: I) {
        *self.frame.lock().unwrap_or_else(PoisonError::into_inner) = Some(frame);
        self.here.store(true, Ordering::Release);
    }

    fn is_here(&self) -> bool {
        self.here.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<I> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A session's codec, whose frames are compared with the one that ends the drive. `None` stands for
/// that frame.
struct UntilCodec<'a, C, P, I> {
    codec: &'a mut C,
    until: P,
    found: Arc<Found<I>>,
}

impl<C: Decoder, P: FnMut(&C::Item) -> bool> UntilCodec<'_, C, P, C::Item> {
    fn compare(&mut self, frame: Option<C::Item>) -> Option<Option<C::Item>> {
        let frame = frame?;
        if !(self.until)(&frame) {
            return Some(Some(frame));
        }
        self.found.put(frame);
        Some(None)
    }
}

impl<C: Decoder<Error: Into<BoxError>>, P: FnMut(&C::Item) -> bool> Decoder
    for UntilCodec<'_, C, P, C::Item>
{
    type Item = Option<C::Item>;
    type Error = UntilError;

    #[inline]
    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Self::Item>, UntilError> {
        let frame = self.codec.decode(buf).map_err(UntilError::new)?;
        Ok(self.compare(frame))
    }

    fn decode_eof(&mut self, buf: &mut BytesMut) -> Result<Option<Self::Item>, UntilError> {
        let frame = self.codec.decode_eof(buf).map_err(UntilError::new)?;
        Ok(self.compare(frame))
    }
}

impl<T, C: Encoder<T, Error: Into<BoxError>>, P, I> Encoder<T> for UntilCodec<'_, C, P, I> {
    type Error = UntilError;

    #[inline]
    fn encode(&mut self, frame: T, buf: &mut BytesMut) -> Result<(), UntilError> {
        self.codec.encode(frame, buf).map_err(UntilError::new)
    }
}

/// An error of the lent codec. A type of its own, because a boxed error does not convert from an
/// `io::Error` in every way that a decoder's error has to.
#[derive(Debug)]
struct UntilError(BoxError);

impl UntilError {
    #[cold]
    fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

impl From<std::io::Error> for UntilError {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

impl From<UntilError> for BoxError {
    fn from(error: UntilError) -> Self {
        error.0
    }
}

/// The lent service, which is not asked for the frame that ends the drive: it would reserve a
/// permit for it.
struct Until<'a, S, I> {
    service: &'a mut S,
    found: Arc<Found<I>>,
}

impl<S, I> Service<Option<I>> for Until<'_, S, I>
where
    S: Service<I, Response: IntoReply>,
{
    type Response = Reply<<S::Response as IntoReply>::Frame>;
    type Error = S::Error;
    type Future = UntilFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.found.is_here() { Poll::Ready(Ok(())) } else { self.service.poll_ready(cx) }
    }

    #[inline]
    fn call(&mut self, frame: Option<I>) -> Self::Future {
        UntilFuture(frame.map(|frame| self.service.call(frame)))
    }
}

/// A call, or nothing for the frame that ends the drive.
#[pin_project]
struct UntilFuture<F>(#[pin] Option<F>);

impl<F, R, E> Future for UntilFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoReply,
{
    type Output = Result<Reply<R::Frame>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.as_pin_mut() {
            Some(call) => call.poll(cx).map_ok(IntoReply::into_reply),
            None => Poll::Ready(Ok(Reply::none().then_close())),
        }
    }
}

/// The future of [`Session::drive_until`].
#[pin_project(PinnedDrop)]
struct DriveUntil<'a, C, D, I> {
    wire: &'a mut ReturningWire,
    inbox: &'a mut Inbox<C>,
    #[pin]
    dispatch: D,
    found: Arc<Found<I>>,
    begun: bool,
}

impl<'a, C, S, P, Q> Future
    for DriveUntil<
        'a,
        C,
        Dispatch<
            UntilCodec<'a, C, P, C::Item>,
            Until<'a, S, C::Item>,
            Option<C::Item>,
            <S::Response as IntoReply>::Frame,
            Q,
            EndConnection,
            Copied,
        >,
        C::Item,
    >
where
    C: Decoder<Error: Into<BoxError>>
        + Encoder<<S::Response as IntoReply>::Frame, Error: Into<BoxError>>,
    S: Service<C::Item, Response: IntoReply, Error: Into<BoxError>>,
    P: FnMut(&C::Item) -> bool,
    Q: Calls<UntilFuture<S::Future>>,
{
    type Output = Result<Option<C::Item>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if !*this.begun {
            ready!(this.wire.poll_step(cx));
            *this.begun = true;
        }
        this.wire.check_live()?;
        loop {
            if let Poll::Ready(driven) = this.dispatch.as_mut().poll(this.wire, cx) {
                driven?;
                if let Some(frame) = this.found.take() {
                    return Poll::Ready(Ok(Some(frame)));
                }
                break;
            }
            // The outboxes belong to the session's own codec, so they are not in the dispatch.
            let Some(lent) = this.dispatch.as_mut().codec_between_answers() else {
                return Poll::Pending;
            };
            let unwritten = this.wire.unwritten();
            ready!(this.inbox.poll(lent.codec, this.wire, cx))?;
            if this.wire.unwritten() == unwritten {
                return Poll::Pending;
            }
        }
        if this.wire.has_ended()
            && let Some(lent) = this.dispatch.as_mut().codec_between_answers()
        {
            ready!(this.inbox.poll_last(lent.codec, this.wire, cx))?;
        }
        Poll::Ready(Ok(None))
    }
}

#[pinned_drop]
impl<C, D, I> PinnedDrop for DriveUntil<'_, C, D, I> {
    /// The session no longer waits for the peer, and no deadline counts.
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        this.wire.pause();
        this.wire.note_moved();
    }
}

impl<C, D, I> fmt::Debug for DriveUntil<'_, C, D, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriveUntil").finish_non_exhaustive()
    }
}
