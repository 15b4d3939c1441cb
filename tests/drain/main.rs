//! The orderly end of a server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;
#[path = "../transports/mod.rs"]
mod transports;

/// The path of each test begins with this: `cargo test drain` runs them all.
#[path = "."]
mod drain {
    mod arrived;
    mod backlog;
    mod deadline;
    mod endless;
    mod grace;
    mod midway;
    mod order;
    mod signals;
    mod successor;
    mod unserved;
}
