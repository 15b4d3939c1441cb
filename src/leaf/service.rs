//! The service of frames that `framed` takes.

use tower_service::Service;

/// A tower service of frames: a `Service<F>` that is called once for each frame.
///
/// [`framed`](crate::framed) and [`per_connection`](crate::per_connection) require this alias for
/// the sake of its compiler message. It is implemented for every service, and can't be implemented
/// by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service of `{F}`, which are the frames of this codec",
    label = "this can't answer these frames",
    note = "an async function of a frame goes into `service_fn(f)`, a plain one into `reply_fn(f)`",
    note = "a function of `(state, frame)` needs `StateLayer::new(state)` around its service",
    note = "a layer for connections, such as `ConnectionLimitLayer`, goes on the server: `Server::layer`"
)]
pub trait FrameService<F>: sealed::Answers<F> {
    /// The type of its answers.
    type Answer;
    /// The type of its errors.
    type Failure;
}

#[diagnostic::do_not_recommend]
impl<F, S: Service<F>> FrameService<F> for S {
    type Answer = S::Response;
    type Failure = S::Error;
}

mod sealed {
    use super::Service;

    #[allow(unreachable_pub)] // sealed: it can't be named outside
    pub trait Answers<F> {}

    #[diagnostic::do_not_recommend]
    impl<F, S: Service<F>> Answers<F> for S {}
}
