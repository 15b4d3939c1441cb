//! TLS on both sides.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../support/mod.rs"]
mod support;

/// The path of each test begins with this: `cargo test tls` runs them all.
#[path = "."]
mod tls {
    mod connect;
    mod detect;
    mod drain;
    mod endpoints;
    mod expiries;
    mod faults;
    mod handshakes;
    mod identity;
    mod key_log;
    mod later;
    mod providers;
    mod reload;
    mod routes;
    mod starttls;
}
