//! Servers and clients in this process: a folder for each area.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../called/mod.rs"]
mod called;
#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../logged/mod.rs"]
mod logged;
#[path = "../staffed/mod.rs"]
mod staffed;
#[path = "../support/mod.rs"]
mod support;
mod transports;
mod wired;

mod client;
mod defaults;
mod dispatch;
mod drain;
mod endpoint;
mod layers;
mod outbox;
mod server;
mod session;
