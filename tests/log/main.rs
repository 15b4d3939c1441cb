//! What is logged.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../logged/mod.rs"]
mod logged;

/// The path of each test begins with this: `cargo test log` runs them all.
#[path = "."]
mod log {
    mod defaults;
    mod lines;
    mod proxied;
    mod validity;
}
