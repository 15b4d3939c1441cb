//! Whole servers and clients under simulated faults.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

/// The path of each test begins with this: `cargo test simulation` runs them all.
#[path = "."]
mod simulation {
    mod client;
    mod server;
}
