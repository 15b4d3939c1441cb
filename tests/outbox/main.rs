//! Frames pushed from outside.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../wired/mod.rs"]
mod wired;

/// The path of each test begins with this: `cargo test outbox` runs them all.
#[path = "."]
mod outbox {
    mod full;
    mod pushes;
    mod pushing;
    mod rooms;
    mod rooms_in_order;
    mod threads;
    mod turns;
}
