//! The connection and the layers, without a server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod collected;
mod common;

mod admission;
mod calls;
mod connections;
mod layers;
mod limits;
mod logs;
mod proxy;
