//! The defaults of `docs/src/limits.md`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../called/mod.rs"]
mod called;
#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../harness/mod.rs"]
mod harness;

/// The path of each test begins with this: `cargo test defaults` runs them all.
#[path = "."]
mod defaults {
    mod clients;
    mod connections;
    mod layers;
    mod listeners;
    mod running;
}
