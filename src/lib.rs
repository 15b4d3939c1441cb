//! Servers for every TCP protocol that is not HTTP: codecs find the frames, tower services answer them.
#![forbid(unsafe_code)]

mod endpoint;
mod listener;
pub mod memory;

pub use endpoint::{BindError, Endpoint, EndpointError};
pub use listener::Listener;
pub use ropewalk_middleware::{Addr, Connection, Credentials, Io, Peer, Stream};
