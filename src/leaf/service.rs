//! What `framed` takes.

use tower_service::Service;

/// A tower service of frames: `Service<F>`, called once for each.
///
/// An alias that [`framed`](crate::framed) and [`per_connection`](crate::per_connection) ask for, for the sake of the
/// compiler's message; it is implemented for every service, and cannot be implemented otherwise.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service of `{F}`, which are the frames of this codec",
    label = "this can't answer these frames",
    note = "an async function of a frame goes into `service_fn(f)`, a plain one into `reply_fn(f)`",
    note = "a function of `(state, frame)` needs `StateLayer::new(state)` around its service",
    note = "a layer for connections, such as `ConnectionLimitLayer`, goes on the server: `Server::layer`"
)]
pub trait FrameService<F>: sealed::Answers<F> {
    /// What it answers with.
    type Answer;
    /// What it fails with.
    type Failure;
}

#[diagnostic::do_not_recommend]
impl<F, S: Service<F>> FrameService<F> for S {
    type Answer = S::Response;
    type Failure = S::Error;
}

mod sealed {
    use super::Service;

    #[allow(unreachable_pub)] // sealed: nobody outside names it
    pub trait Answers<F> {}

    #[diagnostic::do_not_recommend]
    impl<F, S: Service<F>> Answers<F> for S {}
}
