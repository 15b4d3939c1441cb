//! The admin endpoint, asked over sockets and in memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

mod attacks;
mod changes;
mod deadlines;
mod drains;
mod exposure;
mod lists;
mod many;
mod reads;
mod refusals;
mod sites;
mod taps;
mod tokens;
