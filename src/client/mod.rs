//! Clients: connections to a server, with the same codecs.
//!
//! * [`connect()`] makes one [`Connection`](crate::Connection);
//!   [`Session::over`](crate::Session::over) makes a session on it, for a protocol written as an
//!   async function.
//! * A [`Client`] is for many callers: a tower service with any codec, on one connection that is
//!   made again when it breaks. The error of a failed call tells whether the server may have seen
//!   the request.
//!
//! ```
//! use std::time::Duration;
//!
//! use ropewalk::client::{Backoff, Client};
//! use ropewalk::{Bytes, Lines, LogLayer, Server, framed, memory, reply_fn};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> ropewalk::Result {
//! # let (endpoint, connector) = memory::endpoint();
//! # tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::crlf(), reply_fn(|line: Bytes| line))).into_future());
//! # let remote = connector;
//! let (store, handle) = Client::new()
//!     .connect(remote)
//!     .connect_within(Duration::from_secs(5))
//!     .backoff(Backoff::between(Duration::from_millis(100), Duration::from_secs(30)))
//!     .layer(LogLayer::new())
//!     .in_flight(64)
//!     .call_within(Duration::from_secs(2))
//!     .pipelined::<String, _>(Lines::crlf())?;
//!
//! let pong = store.ask("PING").await?;
//! let pong = store.clone().oneshot("PING".into()).await?;
//! handle.drain(Duration::from_secs(5));
//! handle.ended().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What a failed call means
//!
//! The client never sends a request twice. Calls that are queued when a connection ends stay queued
//! for the next one, within their deadline. Calls that were sent fail at once: with
//! [`NotSent`](ClientError::NotSent) if no byte of the request was passed to the transport, and
//! with [`MayHaveArrived`](ClientError::MayHaveArrived) otherwise. Under TLS, bytes that rustls has
//! accepted count as passed on, so `MayHaveArrived` may be returned for a request that did not
//! arrive, but `NotSent` never for one that did.

mod backoff;
mod builder;
mod connect;
mod error;
mod forward;
mod gather;
mod handle;
mod leaf;
mod line;
mod matching;
mod options;
#[cfg(feature = "tower")]
mod policy;
mod prepare;
mod service;
mod shared;
mod state;
mod table;
mod task;

pub use self::backoff::Backoff;
pub use self::builder::Client;
pub use self::connect::connect;
pub use self::error::{Cause, ClientError, fatal};
pub use self::forward::{Forward, forward};
pub use self::gather::{Many, NoPushes, OnPush, One, OneOrPush, Part};
pub use self::handle::ClientHandle;
pub use self::leaf::ClientLeaf;
pub use self::matching::Tag;
#[cfg(feature = "tower")]
pub use self::policy::NotSent;
pub use self::prepare::{Prepared, Unprepared};
pub use self::service::{Call, Pipelined};
pub use self::state::{ClientCounts, ClientState};
pub use crate::endpoint::error::ConnectError;
pub use crate::endpoint::remote::{Dial, Dialing, Remote};

use self::options::ClientOptions;
