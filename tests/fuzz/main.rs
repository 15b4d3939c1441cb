//! The targets of `fuzz/`, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, unreachable_pub, reason = "it is the library of another package")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// The path of each test begins with this: `cargo test fuzz` runs them all.
#[path = "."]
mod fuzz {
    mod corpus;
    mod split_input;
}
