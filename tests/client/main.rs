//! The client.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../called/mod.rs"]
mod called;

/// The path of each test begins with this: `cargo test client` runs them all.
#[path = "."]
mod client {
    mod answers;
    mod bounds;
    mod calls;
    mod ends;
    mod floods;
    mod forward;
    mod rules;
    mod storm;
    mod tower;
}
