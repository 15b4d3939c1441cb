//! The one way to the log for all crates of ropewalk; not part of the public interface.
//!
//! A subscriber is user code: it may panic, and its writer may block. Events are emitted in accept loops, tasks and
//! destructors, where a panic would end much more than a line. So every event and every span of ours goes through here,
//! and panics end here. `tests/tidy/` forbids tracing's own macros elsewhere.
//!
//! * [`event!`](crate::__event) writes a line where it stands.
//! * [`aside!`](crate::__aside) writes it from a thread that is allowed to hang: for code that must go on if the log blocks.
//! * [`Limit`] says whether a line of a class that a peer can cause is written, and reports how many were not.
//! * [`Span`] is a span that is entered, left and closed without a panic.

mod aside;
mod limit;
mod span;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use tracing;
use tracing::Level;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};

pub use self::aside::aside;
pub use self::limit::{LINES, Limit};
pub use self::span::{Entered, Span};
pub use crate::{__aside as aside, __event as event, __span as span};

/// Emits an event, as `tracing::event!` does, and contains its panics: `event!(WARN, %error, "it failed")`, or
/// `event!(target: "x", LEVEL, …)` with a level that is a constant.
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

/// Emits an event from a thread that is allowed to hang: see [`aside`](fn@crate::event::aside). It takes its fields
/// with it, so they are owned.
#[macro_export]
#[doc(hidden)]
macro_rules! __aside {
    ($level:ident, $($event:tt)+) => {
        if $crate::event::may_log($crate::event::tracing::Level::$level) {
            $crate::event::aside(move || $crate::__event!($level, $($event)+));
        }
    };
}

/// Makes a [`Span`](crate::event::Span), as `tracing::span!` does: `span!(target: "x", LEVEL, "name", …)`.
#[macro_export]
#[doc(hidden)]
macro_rules! __span {
    (target: $target:expr, $level:expr, $($span:tt)+) => {
        $crate::event::Span::new($level, || $crate::event::tracing::span!(target: $target, $level, $($span)+))
    };
}

/// Whether any subscriber may want a line of this level. Two loads: a disabled line costs no more.
#[inline]
pub fn may_log(level: Level) -> bool {
    level <= STATIC_MAX_LEVEL && level <= LevelFilter::current()
}

/// Calls a subscriber, and ends its panic here.
///
/// This holds in a destructor that runs because of another panic, too: a panic inside a panic is fatal only when it
/// leaves the destructor. (With `panic = "abort"` nothing can be contained.)
#[inline]
pub fn contain<T>(log: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(log)) {
        Ok(value) => Some(value),
        Err(panic) => {
            // The value it was thrown with is user code as well. A destructor that panics is left where it is.
            if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                std::mem::forget(another);
            }
            None
        }
    }
}
