//! The queue of an outbox, and its wake-up, in every order in which threads can run: models that
//! loom tries one by one.
//!
//! The models run the code of `src/outbox/queue.rs` and `inbox.rs` unchanged, on loom's locks
//! and atomics. A connection and a wire stand in for the real ones: they have what those two files
//! use.
#![allow(dead_code, reason = "a model uses its part of the code")]
#![allow(missing_docs, unreachable_pub, reason = "the files belong to a library")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "the stand-ins have the signatures of the real ones"
)]

extern crate ropewalk_middleware as middleware;
/// Under its name the files find the stand-in for a connection.
extern crate self as ropewalk_middleware;

mod connection;
mod outbox;
mod wire;

pub use middleware::{BoxError, CloseReason, Error, Escaped, Result, event};

pub use self::connection::{Closing, ConnectionInfo};

/// The path of each test begins with this: `cargo test outbox_models` runs them all.
#[path = "."]
mod outbox_models {
    mod pushes;
}
