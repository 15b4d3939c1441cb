//! Servers for every TCP protocol that is not HTTP: codecs find the frames, tower services answer them.
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
mod dispatch;
mod endpoint;
mod error;
mod leaf;
mod listener;
pub mod memory;
mod reply;
mod server;
mod session;
mod wire;

pub use ropewalk_codecs::*;
pub use ropewalk_middleware::*;

pub use dispatch::{AsReady, Concurrent, EndConnection, InOrder, OnError, Order};
pub use endpoint::{BindError, Endpoint, EndpointError};
pub use error::{BoxError, Error, Result, SessionError};
pub use leaf::{
    Cloned, Framed, FramedFuture, MakeFrameService, PerPeer, ReplyFn, ServiceFn, SessionFuture, SessionLeaf, framed,
    per_connection, reply_fn, service_fn, session, session_with,
};
pub use listener::Listener;
pub use reply::{IntoReply, Reply};
pub use server::{ConnectionService, Counts, Handle, Lifecycle, Serve, Server};
pub use session::{Drive, Next, RawChunks, Session};
