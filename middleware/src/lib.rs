//! The connection every layer sees, and the tower layers for connections and frames.
#![forbid(unsafe_code)]

pub mod connection;

pub use connection::{Addr, CloseReason, Closing, Connection, Credentials, Io, LingeringClose, Peer, Stats, Stream};
