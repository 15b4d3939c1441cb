//! The leaf `session`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../transports/mod.rs"]
mod transports;
#[path = "../wired/mod.rs"]
mod wired;

/// The path of each test begins with this: `cargo test session` runs them all.
#[path = "."]
mod session {
    mod answers;
    mod broken;
    mod cut_midway;
    mod cut_short;
    mod ends;
    mod frames;
    mod goodbye;
    mod raw;
    mod until;
}
