//! What a service answers to a frame.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::vec;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use futures::{Stream, stream};

use crate::error::Result;

/// The answer to one frame: none, one, several frames or a stream of them, and whether the connection closes after it.
///
/// ```
/// use ropewalk::Reply;
///
/// let silent: Reply<&str> = Reply::none();
/// let goodbye = Reply::one("bye").then_close();
/// let listing = Reply::many(["one", "two", "."]);
/// # let _ = (silent, goodbye, listing);
/// ```
///
/// None and one allocate nothing. Several and a stream wait for room: their frames are encoded as the peer takes them, and
/// after 256 of them other connections get their turn.
#[must_use = "a reply is sent when the service returns it"]
pub struct Reply<F> {
    pub(crate) body: Body<F>,
    pub(crate) close: bool,
}

pub(crate) enum Body<F> {
    None,
    One(F),
    Many(vec::IntoIter<F>),
    Stream(Pin<Box<dyn Stream<Item = Result<F>> + Send>>),
}

impl<F> Reply<F> {
    /// No answer.
    pub const fn none() -> Self {
        Self { body: Body::None, close: false }
    }

    /// One frame.
    pub const fn one(frame: F) -> Self {
        Self { body: Body::One(frame), close: false }
    }

    /// One frame, or none.
    pub fn maybe(frame: Option<F>) -> Self {
        frame.map_or_else(Self::none, Self::one)
    }

    /// Several frames, in order.
    pub fn many(frames: impl IntoIterator<Item = F>) -> Self {
        Self { body: Body::Many(frames.into_iter().collect::<Vec<_>>().into_iter()), close: false }
    }

    /// Frames as they come, polled only while there is room for them. An error is as a service's: it ends the connection
    /// behind the frames before it, or is what [`Framed::on_error`](crate::Framed::on_error) makes of it.
    pub fn stream(frames: impl Stream<Item = Result<F>> + Send + 'static) -> Self {
        Self { body: Body::Stream(Box::pin(frames)), close: false }
    }

    /// The frames of an iterator. The first two are asked for now, so that none and one cost nothing; those behind them only
    /// while there is room: for an answer that may be far larger than its request.
    ///
    /// ```
    /// use ropewalk::Reply;
    ///
    /// let numbers = |up_to: u64| Reply::iter((0..up_to).map(|n| n.to_string()));
    /// # let _ = numbers(1_000_000_000);
    /// ```
    pub fn iter<I>(frames: I) -> Self
    where
        F: Send + 'static,
        I: IntoIterator<Item = F, IntoIter: Send + 'static>,
    {
        let mut frames = frames.into_iter().fuse();
        let (first, second) = (frames.next(), frames.next());
        match second {
            None => Self::maybe(first),
            second => Self::stream(stream::iter(first.into_iter().chain(second).chain(frames).map(Ok))),
        }
    }

    /// Closes the connection when this answer is written. Frames that are behind it are not served. Under
    /// [`Framed::unordered`](crate::Framed::unordered), where none is behind another, the calls under way are answered
    /// first, and no more are made.
    pub fn then_close(mut self) -> Self {
        self.close = true;
        self
    }
}

impl<F> fmt::Debug for Reply<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match &self.body {
            Body::None => "none",
            Body::One(_) => "one",
            Body::Many(_) => "many",
            Body::Stream(_) => "stream",
        };
        f.debug_struct("Reply").field("body", &body).field("then_close", &self.close).finish()
    }
}

/// What a service may answer with: a frame, an `Option` of one, or a [`Reply`].
///
/// It is implemented for the common byte and text types. For a frame type of your own answer with `Reply::one(frame)`,
/// or implement it in three lines:
///
/// ```
/// use ropewalk::{IntoReply, Reply};
///
/// struct Answer(u32);
///
/// impl IntoReply for Answer {
///     type Frame = Self;
///     fn into_reply(self) -> Reply<Self> {
///         Reply::one(self)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer to a frame",
    label = "the service answers with this",
    note = "a service answers with a frame (`Bytes`, `&'static str`, `String` …), an `Option` of one, or a `Reply`: \
            return `Reply::one(x)` or `Reply::none()`, or implement `IntoReply` for your own type",
    note = "an async function, and one that returns a `Result`, goes into `service_fn`"
)]
pub trait IntoReply {
    /// The frames it is made of: what the codec must be able to encode.
    type Frame;

    /// The reply.
    fn into_reply(self) -> Reply<Self::Frame>;
}

impl<F> IntoReply for Reply<F> {
    type Frame = F;

    fn into_reply(self) -> Self {
        self
    }
}

impl<F> IntoReply for Option<F> {
    type Frame = F;

    fn into_reply(self) -> Reply<F> {
        Reply::maybe(self)
    }
}

macro_rules! frames {
    ($($frame:ty),* $(,)?) => {$(
        impl IntoReply for $frame {
            type Frame = Self;

            fn into_reply(self) -> Reply<Self> {
                Reply::one(self)
            }
        }
    )*};
}

frames!(
    Bytes,
    BytesMut,
    ByteString,
    Vec<u8>,
    Box<[u8]>,
    Arc<[u8]>,
    &'static [u8],
    Cow<'static, [u8]>,
    String,
    Box<str>,
    Arc<str>,
    &'static str,
);

impl<const N: usize> IntoReply for &'static [u8; N] {
    type Frame = &'static [u8];

    fn into_reply(self) -> Reply<&'static [u8]> {
        Reply::one(self)
    }
}
