//! The connection every layer sees, and the tower layers for connections and frames.
#![forbid(unsafe_code)]

pub mod connection;
mod escape;
pub mod limit;
mod state;

pub use connection::{Addr, CloseReason, Closing, Connection, Credentials, Io, LingeringClose, Peer, Stats, Stream};
pub use escape::{ESCAPED_MAX, Escaped};
pub use limit::{ConnectionLimit, ConnectionLimitLayer};
pub use state::{State, StateLayer};
