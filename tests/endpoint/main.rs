//! Endpoints: their strings, their sockets, PROXY headers, and remotes to connect to.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;

/// The path of each test begins with this: `cargo test endpoint` runs them all.
#[path = "."]
mod endpoint {
    mod bad_strings;
    mod connect;
    mod proxied;
    mod proxied_sockets;
    mod strings;
    mod tcp;
    mod unix_owner;
    mod unix_sockets;
}
