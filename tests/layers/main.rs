//! Layers under a server: tower's and those of this crate.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;
#[path = "../wired/mod.rs"]
mod wired;

/// The path of each test begins with this: `cargo test layers` runs them all.
#[path = "."]
mod layers {
    mod bandwidth;
    mod bans;
    mod calls;
    mod each;
    mod frames;
    mod lasting;
    mod layer_with;
    mod limits;
    mod login;
    mod rates;
    mod read_deadlines;
    mod read_deadlines_transport;
    mod stack;
    mod tap;
}
