//! Hot restart.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../generations/mod.rs"]
mod generations;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../staffed/mod.rs"]
mod staffed;
#[path = "../support/mod.rs"]
mod support;

/// The path of each test begins with this: `cargo test restart` runs them all.
#[path = "."]
mod restart {
    mod beside;
    mod changed;
    mod load;
    mod preambles;
    mod refused;
    mod signal;
    mod takeover;
    mod workers;
}
