//! What is said in place of an answer: to an error, and at the end of a connection that drains.

use crate::error::Error;
use crate::reply::{IntoReply, Reply};

/// What is answered when the codec or the service fails.
pub trait OnError<F> {
    /// The answer; `None` to end the connection with the error.
    fn answer(&mut self, error: &Error) -> Option<Reply<F>>;

    /// The last answer of a connection that drains; `None` where nothing is said.
    fn goodbye(&mut self) -> Option<Reply<F>> {
        None
    }
}

/// Errors end the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndConnection;

impl<F> OnError<F> for EndConnection {
    fn answer(&mut self, _: &Error) -> Option<Reply<F>> {
        None
    }
}

impl<H, R> OnError<R::Frame> for H
where
    H: FnMut(&Error) -> R,
    R: IntoReply,
{
    fn answer(&mut self, error: &Error) -> Option<Reply<R::Frame>> {
        Some(self(error).into_reply())
    }
}

/// What is said to the peer of a connection that drains.
pub trait Goodbye<F> {
    /// The last answer, if there is one.
    fn say(&mut self) -> Option<Reply<F>>;
}

/// A drain says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGoodbye;

impl<F> Goodbye<F> for NoGoodbye {
    fn say(&mut self) -> Option<Reply<F>> {
        None
    }
}

impl<G, R> Goodbye<R::Frame> for G
where
    G: FnMut() -> R,
    R: IntoReply,
{
    fn say(&mut self) -> Option<Reply<R::Frame>> {
        Some(self().into_reply())
    }
}

/// Answers to errors by `E`, and a last one by `G`.
#[derive(Clone, Copy, Debug)]
#[allow(unreachable_pub)] // the type of a public associated type, which nobody needs to name
pub struct WithGoodbye<E, G> {
    pub(crate) on_error: E,
    pub(crate) goodbye: G,
}

impl<F, E: OnError<F>, G: Goodbye<F>> OnError<F> for WithGoodbye<E, G> {
    fn answer(&mut self, error: &Error) -> Option<Reply<F>> {
        self.on_error.answer(error)
    }

    fn goodbye(&mut self) -> Option<Reply<F>> {
        self.goodbye.say()
    }
}
