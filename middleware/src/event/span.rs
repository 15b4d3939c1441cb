use tracing::Level;
use tracing::span::Entered as Inner;

use super::{contain, may_log};

/// A span whose subscriber may panic when it is made, entered, left or closed.
#[derive(Debug)]
pub struct LogSpan(Option<tracing::Span>);

impl LogSpan {
    /// The span that `make` makes, if its level is enabled.
    #[inline]
    pub fn new(level: Level, make: impl FnOnce() -> tracing::Span) -> Self {
        Self(if may_log(level) { contain(make) } else { None })
    }

    /// The span that this thread is in, if any.
    pub fn current() -> Self {
        Self(contain(tracing::Span::current))
    }

    /// Enters the span, until the guard is dropped.
    #[inline]
    pub fn enter(&self) -> EnteredSpan<'_> {
        EnteredSpan(self.0.as_ref().and_then(|span| contain(|| span.enter())))
    }
}

impl Drop for LogSpan {
    #[inline]
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            contain(|| drop(span));
        }
    }
}

/// As long as this lives, the span is entered.
#[derive(Debug)]
pub struct EnteredSpan<'a>(Option<Inner<'a>>);

impl Drop for EnteredSpan<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(entered) = self.0.take() {
            contain(|| drop(entered));
        }
    }
}
