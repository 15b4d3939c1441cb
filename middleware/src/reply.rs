//! The answer of a service to a frame.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::slice;
use std::sync::Arc;
use std::vec;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use futures::{Stream, TryStreamExt, stream};

use crate::Result;

/// The answer to one frame: no frame, one, several or a stream of frames, and whether the
/// connection closes after it.
///
/// ```
/// use ropewalk_middleware::Reply;
///
/// let silent: Reply<&str> = Reply::none();
/// let goodbye = Reply::one("bye").then_close();
/// let listing = Reply::many(["one", "two", "."]);
/// # let _ = (silent, goodbye, listing);
/// ```
///
/// An answer of no frame or of one allocates no memory. Several frames, and a stream, are encoded
/// as the peer accepts them, and after every 256 frames other connections get their turns.
#[must_use = "a reply is sent when the service returns it"]
pub struct Reply<F> {
    #[doc(hidden)]
    pub body: Body<F>,
    #[doc(hidden)]
    pub close: bool,
}

/// The frames of an answer, for the code that encodes them.
#[doc(hidden)]
pub enum Body<F> {
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

    /// A stream of frames, polled only while there is room in the write buffer. An error of the
    /// stream is treated as an error of the service: it ends the connection after the frames before
    /// it are written, or `Framed::on_error` turns it into an answer.
    pub fn stream(frames: impl Stream<Item = Result<F>> + Send + 'static) -> Self {
        Self { body: Body::Stream(Box::pin(frames)), close: false }
    }

    /// The frames of an iterator, for an answer that may be far larger than its request. The first
    /// two are taken from it at once, so that answers of no frame and of one cost no stream; the
    /// rest are taken only while there is room.
    ///
    /// ```
    /// use ropewalk_middleware::Reply;
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
        let first = frames.next();
        let second = frames.next();
        match second {
            None => Self::maybe(first),
            second => {
                Self::stream(stream::iter(first.into_iter().chain(second).chain(frames).map(Ok)))
            }
        }
    }

    /// Closes the connection when this answer is written. Frames received after the one it answers
    /// are not served. Under `Framed::unordered`, where answers have no order, the calls under way
    /// are answered first, and no more calls are made.
    pub fn then_close(mut self) -> Self {
        self.close = true;
        self
    }
}

/// The contents of a [`Reply`]: see [`Reply::view`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyView<'a, F> {
    /// The frames, if they are known already: none, one or several.
    Frames(&'a [F]),
    /// A stream, whose frames are not known yet.
    Stream,
}

impl<F> Reply<F> {
    /// A view of the frames, for layers that log or count them.
    ///
    /// ```
    /// use ropewalk_middleware::{Reply, ReplyView};
    ///
    /// assert_eq!(Reply::many(["one", "two"]).view(), ReplyView::Frames(&["one", "two"]));
    /// ```
    pub fn view(&self) -> ReplyView<'_, F> {
        match &self.body {
            Body::None => ReplyView::Frames(&[]),
            Body::One(frame) => ReplyView::Frames(slice::from_ref(frame)),
            Body::Many(frames) => ReplyView::Frames(frames.as_slice()),
            Body::Stream(_) => ReplyView::Stream,
        }
    }

    /// Whether the connection closes after this answer.
    pub fn closes(&self) -> bool {
        self.close
    }

    /// The same answer with each frame converted; the frames of a stream are converted when they
    /// arrive.
    ///
    /// ```
    /// use ropewalk_middleware::{Reply, ReplyView};
    ///
    /// let reply = Reply::many([1, 2]).then_close().map(|n| n * 10);
    /// assert_eq!((reply.view(), reply.closes()), (ReplyView::Frames(&[10, 20]), true));
    /// ```
    pub fn map<T, M>(self, mut convert: M) -> Reply<T>
    where
        F: 'static,
        M: FnMut(F) -> T + Send + 'static,
    {
        let Self { body, close } = self;
        let body = match body {
            Body::None => Body::None,
            Body::One(frame) => Body::One(convert(frame)),
            Body::Many(frames) => Body::Many(frames.map(convert).collect::<Vec<_>>().into_iter()),
            Body::Stream(frames) => Body::Stream(Box::pin(frames.map_ok(convert))),
        };
        Reply { body, close }
    }
}

impl<F> fmt::Debug for Body<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::One(_) => "one",
            Self::Many(_) => "many",
            Self::Stream(_) => "stream",
        })
    }
}

impl<F> fmt::Debug for Reply<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("body", &self.body).field("then_close", &self.close).finish()
    }
}

/// The answers that a service may give: a frame, an `Option` of one, or a [`Reply`].
///
/// It is implemented for the common byte and text types. With a frame type of your own, answer with
/// `Reply::one(frame)`, or implement the trait. Its `Frame` is the answer itself if your codec
/// encodes it, or the frame that your codec encodes for it:
///
/// ```
/// use ropewalk_middleware::{IntoReply, Reply};
///
/// enum Answer {
///     Number(u64),
///     Bye,
/// }
///
/// impl IntoReply for Answer {
///     type Frame = String;
///
///     fn into_reply(self) -> Reply<String> {
///         match self {
///             Self::Number(n) => Reply::one(format!(":{n}")),
///             Self::Bye => Reply::one("bye".to_owned()).then_close(),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an answer to a frame",
    label = "the service answers with this",
    note = "a service answers with a frame (`Bytes`, `&'static str`, `String` …), an `Option` of one, or a `Reply`: \
            return `Reply::one(x)` or `Reply::none()`, or implement `IntoReply` for your own type",
    note = "an async function, and one that returns a `Result`, goes into `service_fn`"
)]
pub trait IntoReply {
    /// The type of its frames, which the codec must be able to encode.
    type Frame;

    /// Converts the answer to a [`Reply`].
    fn into_reply(self) -> Reply<Self::Frame>;
}

impl<F> IntoReply for Reply<F> {
    type Frame = F;

    #[inline]
    fn into_reply(self) -> Self {
        self
    }
}

impl<F> IntoReply for Option<F> {
    type Frame = F;

    #[inline]
    fn into_reply(self) -> Reply<F> {
        Reply::maybe(self)
    }
}

macro_rules! frames {
    ($($frame:ty),* $(,)?) => {$(
        impl IntoReply for $frame {
            type Frame = Self;

            #[inline]
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
