//! Whole processes, which a test starts or is itself: blocked threads, a log that nobody reads,
//! passed sockets, stock programs.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../support/mod.rs"]
mod support;

/// The path of each test begins with this: `cargo test process` runs them all.
#[path = "."]
mod process {
    mod activation;
    mod activation_environment;
    mod activation_preambles;
    mod client_redis_killed;
    mod drain_blocked;
    mod haproxy;
    mod log_unread;
    mod notify;
    mod openssl;
}
