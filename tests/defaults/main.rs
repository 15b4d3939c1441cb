//! The defaults of `docs/src/limits.md`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;

/// The path of each test begins with this: `cargo test defaults` runs them all.
#[path = "."]
mod defaults {
    mod connections;
    mod running;
}
