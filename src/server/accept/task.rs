//! The task of one connection: it runs the service's future and contains its panics.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use ropewalk_middleware::event::aside;
use ropewalk_middleware::{BoxError, CloseReason, Error, Escaped};

use crate::server::books::entry::OpenEntry;

/// Runs a connection until it ends, is aborted or panics, and closes its entry in the books.
#[pin_project]
pub(super) struct ConnectionTask<F> {
    #[pin]
    run: Option<F>,
    // Dropped after `run`, so that the entry is closed when the connection is gone completely.
    entered: OpenEntry,
}

impl<F> ConnectionTask<F> {
    pub(in crate::server) fn new(run: F, entered: OpenEntry) -> Self {
        Self { run: Some(run), entered }
    }
}

impl<F, E> Future for ConnectionTask<F>
where
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let closing = &this.entered.closing;
        let aborted = if this.entered.watched {
            closing.is_aborted()
        } else {
            closing.poll_aborted(cx).is_ready()
        };
        this.entered.watched = true;
        let closing = &this.entered.closing;
        if aborted {
            closing.set_reason(CloseReason::Aborted);
        } else {
            let Some(run) = this.run.as_mut().as_pin_mut() else { return Poll::Ready(()) };
            match catch_unwind(AssertUnwindSafe(|| run.poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(()))) => {
                    closing.settle(false);
                }
                Ok(Poll::Ready(Err(error))) => {
                    let error = Error::other(error);
                    let reason = closing.settle(true);
                    if this.entered.log().errors.pass() {
                        // An error may quote the peer.
                        let error = format!("{:?}", Escaped::display(&error));
                        aside!(DEBUG, %reason, %error, "connection ended by an error");
                    }
                }
                Err(panic) => panicked(this.entered, panic),
            }
        }
        // Values that the connection owned may panic when they are dropped. That ends only this
        // connection, too.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| this.run.set(None))) {
            panicked(this.entered, panic);
        }
        Poll::Ready(())
    }
}

/// Records a panic in user code. It ends this connection only.
pub(in crate::server) fn panicked(entered: &OpenEntry, panic: Box<dyn Any + Send>) {
    entered.closing.set_reason(CloseReason::Panic);
    if entered.log().panics.pass() {
        let text = format!("{:?}", Escaped::display(&panic_text(&*panic)));
        aside!(ERROR, panic = %text, "a connection's service panicked; the connection is closed");
    }
    // The payload is the user's as well, and may panic when it is dropped. The second payload is
    // leaked.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
}

/// The text of a panic, or a placeholder if its payload is not a text.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(not a text)",
    }
}
