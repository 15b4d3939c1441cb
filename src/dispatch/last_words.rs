//! Answers that don't come from the service: to an error, and at the end of a connection that
//! drains.

use ropewalk_middleware::{Error, IntoReply, Reply};

/// The answer when the codec or the service fails.
pub trait OnError<F> {
    /// The answer; `None` to end the connection with the error.
    fn answer(&mut self, error: &Error) -> Option<Reply<F>>;

    /// The goodbye of a connection that drains; `None` to send no goodbye.
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

/// The goodbye of a connection that drains.
pub trait Goodbye<F> {
    /// The goodbye, if there is one.
    fn say(&mut self) -> Option<Reply<F>>;
}

/// A drain sends no goodbye.
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

/// Answers to errors from `E`, and the goodbye from `G`.
#[derive(Clone, Copy, Debug)]
#[allow(unreachable_pub)] // the type of a public associated type, which needn't be named
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
