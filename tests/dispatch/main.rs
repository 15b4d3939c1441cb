//! The leaf `framed`, and the wire below it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../transports/mod.rs"]
mod transports;
#[path = "../wired/mod.rs"]
mod wired;

/// The path of each test begins with this: `cargo test dispatch` runs them all.
#[path = "."]
mod dispatch {
    mod begun_frames;
    mod busy_calls;
    mod calls;
    mod failed_answers;
    mod foreign_codecs;
    mod large_frames;
    mod pending_calls;
    mod slow_readers;
    mod turns;
    mod waiting_calls;
}
