use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::panicking;

use pin_project::{pin_project, pinned_drop};

use super::record::Record;
use crate::event::LogSpan;

/// A connection that is logged.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct LogFuture<F> {
    /// Dropped when it is done, so that the effects of its drop come before the last line.
    #[pin]
    future: Option<F>,
    /// `None` until the first poll.
    span: Option<LogSpan>,
    record: Record,
}

impl<F> LogFuture<F> {
    pub(super) fn new(future: F, record: Record) -> Self {
        Self { future: Some(future), span: None, record }
    }
}

impl<F, T, E> Future for LogFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.span.get_or_insert_with(|| this.record.open()).enter();
        let result = {
            let _unwinding = Unwinding(this.record);
            let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
            let result = ready!(future.poll(cx));
            this.future.set(None);
            result
        };
        this.record.ended(result.as_ref().err());
        Poll::Ready(result)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for LogFuture<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = this.span.get_or_insert_with(|| this.record.open()).enter();
        this.future.set(None);
        this.record.cut_short();
    }
}

/// Logs the end when it is dropped by a panic.
///
/// The code that catches the panic drops the future only afterwards: then it can't be distinguished
/// from a cancelled one.
struct Unwinding<'a>(&'a mut Record);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.0.cut_short();
        }
    }
}
