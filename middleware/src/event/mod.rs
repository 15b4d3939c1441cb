//! The one way to the log for all crates of ropewalk; not part of the public interface.
//!
//! A subscriber is user code: it may panic, and its writer may block. Events are emitted in accept
//! loops, tasks and destructors, where a panic would do much more harm than the loss of a line. So
//! all events and spans of these crates go through this module, which catches the panics.
//! `tests/tidy/` forbids tracing's own macros elsewhere.
//!
//! * [`event!`](crate::__event) writes a line on the current thread.
//! * [`aside!`](crate::__aside) writes it from a thread that may block: for code that must continue
//!   if the log blocks.
//! * [`Limit`] says whether a line that a peer can cause is written, and reports how many were not.
//! * [`LogSpan`] is a span that never panics when it is entered, left or closed.

mod aside;
mod limit;
mod span;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use tracing;
use tracing::Level;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};

pub use self::aside::aside;
pub use self::limit::{LINES, Limit};
pub use self::span::{EnteredSpan, LogSpan};
pub use crate::{__aside as aside, __event as event, __span as span};

/// Emits an event, as `tracing::event!` does, and contains its panics: `event!(WARN, %error, "it
/// failed")`, or `event!(target: "x", LEVEL, …)` with a level that is a constant.
#[macro_export]
#[doc(hidden)]
macro_rules! __event {
    (target: $target:expr, $level:expr, $($event:tt)+) => {
        if $crate::event::may_log($level) {
            $crate::event::contain(|| $crate::event::tracing::event!(target: $target, $level, $($event)+));
        }
    };
    ($level:ident, $($event:tt)+) => {
        if $crate::event::may_log($crate::event::tracing::Level::$level) {
            $crate::event::contain(|| {
                $crate::event::tracing::event!($crate::event::tracing::Level::$level, $($event)+)
            });
        }
    };
}

/// Emits an event from a thread that may block: see [`aside`](fn@crate::event::aside). The thread
/// takes the fields, so they are owned.
#[macro_export]
#[doc(hidden)]
macro_rules! __aside {
    ($level:ident, $($event:tt)+) => {
        if $crate::event::may_log($crate::event::tracing::Level::$level) {
            $crate::event::aside(move || $crate::__event!($level, $($event)+));
        }
    };
}

/// Makes a [`LogSpan`](crate::event::LogSpan), as `tracing::span!` does: `span!(target: "x", LEVEL,
/// "name", …)`.
#[macro_export]
#[doc(hidden)]
macro_rules! __span {
    (target: $target:expr, $level:expr, $($span:tt)+) => {
        $crate::event::LogSpan::new($level, || $crate::event::tracing::span!(target: $target, $level, $($span)+))
    };
}

/// Whether any subscriber may enable lines of this level. A disabled line costs two loads and no
/// more.
#[inline]
pub fn may_log(level: Level) -> bool {
    level <= STATIC_MAX_LEVEL && level <= LevelFilter::current()
}

/// Calls a subscriber, and catches its panic.
///
/// This also holds in a destructor that runs because of another panic: a second panic is fatal only
/// if it leaves the destructor. (With `panic = "abort"` no panic can be caught.)
#[inline]
pub fn contain<T>(log: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(log)) {
        Ok(value) => Some(value),
        Err(panic) => {
            // Dropping the panic's payload is user code as well. If that panics, the second payload
            // is leaked.
            if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                std::mem::forget(another);
            }
            None
        }
    }
}
